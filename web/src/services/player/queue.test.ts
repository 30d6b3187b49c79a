import { expect, test } from "vitest";
import { AudioQueue } from "./queue";

const FADE = 8;
const RESUME = 20;
const CAPACITY = 64;
/** The greatest step between neighbours of the signal, and of a fade of it. */
const STEADY = 0.05 + 1 / FADE;

function queue(): AudioQueue {
  return new AudioQueue({ capacity: CAPACITY, fadeSamples: FADE, resumeSamples: RESUME });
}

/** Some sound, never near zero, so that a gap without a fade would be a jump. */
function signal(count: number, from = 0): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => 0.75 + 0.25 * Math.sin((from + i) / 5));
}

function pull(from: AudioQueue, count: number): number[] {
  const out = new Float32Array(count);
  from.pull(out);
  return [...out];
}

/** Within what sounds: the signal itself begins and ends with a jump. */
function expectSmooth(samples: number[]): void {
  const isSound = (sample: number) => sample !== 0;
  const sound = samples.slice(samples.findIndex(isSound), samples.findLastIndex(isSound) + 1);
  const jumps = sound.slice(1).map((sample, i) => Math.abs(sample - sound[i]!));
  expect(Math.max(...jumps)).toBeLessThanOrEqual(STEADY);
}

test("the first sample is given out at once, though more is expected", () => {
  const one = queue();
  expect(pull(one, 4)).toEqual([0, 0, 0, 0]);
  one.push(signal(2 * FADE));
  expect(pull(one, FADE)).toEqual([...signal(FADE)]);
  expect(one.played).toBe(FADE);
});

test.each([
  [1, 1],
  [3, 7],
  [64, 13],
  [100, 55],
  [17, 5],
])("what is pushed by %i and pulled by %i comes out bit for bit", (pushed, pulled) => {
  const one = queue();
  const all = signal(1000);
  const out: number[] = [];
  let at = 0;
  while (at < all.length) {
    // Feeds it as full as it gets, and never lets it come near its end.
    let taken = -1;
    while (taken && at < all.length) {
      taken = one.push(all.subarray(at, at + pushed));
      at += taken;
    }
    while (one.length - pulled > FADE) out.push(...pull(one, pulled));
  }
  one.end();
  while (!one.isDrained) out.push(...pull(one, pulled));
  expect(out.slice(0, all.length)).toEqual([...all]);
  expect(out.slice(all.length).every((sample) => sample === 0)).toBe(true);
  expect([one.played, one.underruns]).toEqual([all.length, 0]);
});

test("it takes only what it has room for", () => {
  const one = queue();
  const all = signal(2 * CAPACITY);
  expect(one.push(all.subarray(0, 50))).toBe(50);
  expect(one.push(all.subarray(50))).toBe(CAPACITY - 50);
  expect(one.push(all.subarray(CAPACITY))).toBe(0);
  one.end();
  expect(pull(one, CAPACITY)).toEqual([...all.subarray(0, CAPACITY)]);
});

test("running dry fades out, counts once, waits for enough, fades in and loses nothing", () => {
  const one = queue();
  const out: number[] = [];
  one.push(signal(30));
  out.push(...pull(one, 60));
  expect(out.at(-1)).toBe(0);
  expect(one.isStalled).toBe(true);
  expect(one.underruns).toBe(1);

  one.push(signal(RESUME - one.length - 1, 30));
  out.push(...pull(one, 10));
  expect(one.isStalled).toBe(true);

  one.push(signal(60 - one.played - one.length, one.played + one.length));
  one.end();
  out.push(...pull(one, 40));
  expect(one.isDrained).toBe(true);
  expect([one.played, one.underruns]).toEqual([60, 1]);
  expectSmooth(out);
});

test("after it has run dry, the end lets out what is there", () => {
  const one = queue();
  one.push(signal(30));
  pull(one, 60);
  one.push(signal(2, 30));
  one.end();
  pull(one, 20);
  expect([one.played, one.underruns, one.isDrained]).toEqual([32, 1, true]);
});

test("a first piece that is shorter than a fade is followed by a fade-in", () => {
  const one = queue();
  one.push(signal(2));
  pull(one, 10);
  one.push(signal(40, 2));
  const out = pull(one, 20);
  expect(out[0]).toBeLessThanOrEqual(1 / FADE);
  expectSmooth(out);
  expect(out[15]).toBe(signal(20, 2)[15]);
});

test("however irregularly it is fed, no sample is lost and no sound jumps", () => {
  let state = 1;
  const random = (below: number) => {
    state = (state * 48271) % 2147483647;
    return state % below;
  };
  for (let round = 0; round < 200; round++) {
    const one = queue();
    const out: number[] = [];
    let pushed = one.push(signal(FADE + random(20)));
    for (let turn = 0; turn < 60; turn++) {
      if (random(2)) pushed += one.push(signal(random(40), pushed));
      if (!random(8)) one.hold(true);
      out.push(...pull(one, random(40)));
      if (!random(4)) one.hold(false);
      expect(one.played + one.length).toBe(pushed);
    }
    one.hold(false);
    one.end();
    out.push(...pull(one, CAPACITY + 1));
    expect(one.played).toBe(pushed);
    expect(one.isDrained).toBe(true);
    expectSmooth(out);
  }
});

test("a hold fades out, a release fades in, and nothing is lost or counted", () => {
  const one = queue();
  one.push(signal(60));
  const out = pull(one, 20);
  one.hold(true);
  out.push(...pull(one, 20));
  expect(out.at(-1)).toBe(0);
  const { played } = one;
  expect(pull(one, 20)).toEqual(new Array(20).fill(0));
  expect(one.played).toBe(played);
  one.hold(false);
  out.push(...pull(one, 1));
  one.end();
  out.push(...pull(one, 59 - played));
  expectSmooth(out);
  expect([one.played, one.underruns, one.isDrained]).toEqual([60, 0, true]);
});

test("what is held from the first begins without a fade", () => {
  const one = queue();
  one.hold(true);
  one.push(signal(30));
  expect(pull(one, 5)).toEqual([0, 0, 0, 0, 0]);
  one.hold(false);
  expect(pull(one, 5)).toEqual([...signal(5)]);
});

test("clearing fades out what sounded, and begins anew with nothing counted", () => {
  const one = queue();
  one.push(signal(30));
  pull(one, 60);
  one.push(signal(40, 30));
  const before = pull(one, 20);
  one.clear(false);
  expect([one.played, one.underruns, one.length, one.isDrained]).toEqual([0, 0, 0, false]);
  const tail = [...pull(one, 3), ...pull(one, 7)];
  expectSmooth([before.at(-1)!, ...tail]);
  expect(tail.slice(0, FADE - 1).every((sample) => sample > 0)).toBe(true);
  expect(tail.slice(FADE)).toEqual([0, 0]);
  one.push(signal(FADE + 2));
  expect(pull(one, 2)).toEqual([...signal(2)]);
});

test("clearing in the midst of a fade goes on from there", () => {
  const one = queue();
  one.clear(true);
  one.push(signal(30));
  const out = pull(one, 3);
  one.clear(true);
  out.push(...pull(one, FADE));
  expectSmooth(out);
  expect(out.at(-1)).toBe(0);
});

test("what comes after a clearing in the midst of speech fades in", () => {
  const one = queue();
  one.clear(true);
  one.push(signal(30, 100));
  const out = pull(one, 20);
  expect(out[0]).toBeLessThanOrEqual(1 / FADE);
  expectSmooth(out);
  expect(out[FADE]).toBe(signal(20, 100)[FADE]);
  expect(one.played).toBe(20);
});

test("little to fade in with is waited for, and no underrun", () => {
  const one = queue();
  one.clear(true);
  one.push(signal(FADE - 1));
  pull(one, 10);
  one.push(signal(FADE));
  pull(one, 2);
  expect([one.played, one.underruns]).toEqual([2, 0]);
});

test("an end that comes in time is no underrun, and fades nothing", () => {
  const one = queue();
  one.push(signal(20));
  const out = pull(one, 20 - FADE - 1);
  one.end();
  expect(one.isDrained).toBe(false);
  out.push(...pull(one, FADE + 10));
  expect(out).toEqual([...signal(20), ...new Array(9).fill(0)]);
  expect([one.isDrained, one.underruns]).toEqual([true, 0]);
});

test("an end without samples is drained at once", () => {
  const one = queue();
  one.end();
  expect(one.isDrained).toBe(true);
  expect(pull(one, 2)).toEqual([0, 0]);
});
