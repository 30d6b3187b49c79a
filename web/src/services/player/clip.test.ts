import { expect, test } from "vitest";
import { Clip, PEAK_SAMPLES } from "./clip";

test("a clip grows beyond its first capacity and keeps every sample", () => {
  const clip = new Clip(24_000);
  const pieces = Array.from({ length: 5 }, (_, i) => new Int16Array(40_000).fill(i + 1));
  for (const piece of pieces) clip.append(piece);
  clip.append(new Int16Array(600_000).fill(6)); // More than twice as much at once.
  expect(clip.length).toBe(800_000);
  for (const [i, at] of [0, 40_000, 80_000, 120_000, 160_000, 200_000].entries()) {
    expect(clip.samples[at]).toBe(i + 1);
  }
  expect(clip.samples.at(-1)).toBe(6);
  expect(clip.durationS).toBeCloseTo(33.33, 2);
});

test("peaks are the same however the samples have come", () => {
  const samples = Int16Array.from({ length: 3 * PEAK_SAMPLES + 10 }, (_, i) => (i === 500 ? -32768 : i));
  const expected = [239, 479, 32768, 729].map((magnitude) => magnitude / 32768);
  for (const size of [1, 7, PEAK_SAMPLES, samples.length]) {
    const clip = new Clip(24_000);
    for (let at = 0; at < samples.length; at += size) clip.append(samples.subarray(at, at + size));
    expect(clip.peaks).toEqual(expected);
  }
});

test("silence has peaks too", () => {
  expect(Clip.of(new Int16Array(PEAK_SAMPLES + 1), 24_000).peaks).toEqual([0, 0]);
});

test("whoever listens hears of samples and of the end", () => {
  const clip = new Clip(24_000);
  const seen: [number, boolean][] = [];
  clip.onChange = () => seen.push([clip.length, clip.isComplete]);
  clip.append(Int16Array.of(1, 2));
  clip.append(Int16Array.of(3));
  clip.end();
  expect(seen).toEqual([
    [2, false],
    [3, false],
    [3, true],
  ]);
});
