import { expect, test, vi } from "vitest";
import { Clip } from "./clip";
import { LEAD_S, type Output, type Report } from "./output";
import { Player } from "./player";

const RATE = 100;
const LEAD = LEAD_S * RATE;

/** An output that writes down what it is told, and plays as far as the test says. */
class Tape implements Output {
  readonly kind = "buffers";
  onReport: ((report: Report) => void) | null = null;
  orders: string[] = [];
  /** Samples that it has been given since the last `clear`. */
  samples: number[] = [];

  push(samples: Float32Array<ArrayBuffer>): void {
    this.orders.push(`push ${samples.length}`);
    this.samples.push(...samples);
  }

  end(): void {
    this.orders.push("end");
  }

  hold(isHeld: boolean): void {
    this.orders.push(`hold ${isHeld}`);
  }

  clear(fadesIn: boolean): void {
    this.orders.push(`clear ${fadesIn}`);
    this.samples = [];
  }

  report(played: number, more: Partial<Report> = {}): void {
    this.onReport?.({
      played,
      queued: this.samples.length - played,
      underruns: 0,
      isDrained: false,
      firstAtS: 1,
      ...more,
    });
  }

  /** The orders since the last call. */
  heard(): string[] {
    return this.orders.splice(0);
  }
}

/** A player with its tape; the tape is there from the first unless `isReady` says otherwise. */
async function setUp(isReady = true) {
  const tape = new Tape();
  const asked: string[] = [];
  const context = {
    state: "suspended",
    currentTime: 1,
    outputLatency: 0.5,
    getOutputTimestamp: () => ({ contextTime: 2, performanceTime: 5000 }),
    resume: async () => {
      asked.push("resume");
      context.state = "running";
    },
  };
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const player = new Player(
    RATE,
    async () => {
      asked.push("output");
      await opened;
      return tape;
    },
    (sampleRateHz) => {
      asked.push(`context ${sampleRateHz}`);
      return context as unknown as AudioContext;
    },
  );
  const ready = async () => {
    open();
    await player.prepare();
    return tape.heard();
  };
  if (isReady) await ready();
  return { player, tape, context, asked, ready };
}

/** A clip of samples that each say where they are. */
function clipOf(count: number): Clip {
  return Clip.of(samplesOf(count), RATE);
}

function samplesOf(count: number, from = 0): Int16Array {
  return Int16Array.from({ length: count }, (_, i) => from + i);
}

function placesOf(tape: Tape): number[] {
  return tape.samples.map((sample) => Math.round(sample * 32768));
}

test("the device is made ready once, within the call that needs it", async () => {
  const { player, asked, ready } = await setUp(false);
  player.play(clipOf(1));
  expect(asked).toEqual([`context ${RATE}`, "output", "resume"]);
  await ready();
  player.play(clipOf(1));
  expect(asked).toHaveLength(3);
});

test.each([
  ["suspended", (player: Player) => player.seek(0)],
  ["interrupted", (player: Player) => player.resume()],
])("a device that is %s is woken by what plays again after the end", async (state, again) => {
  const { player, tape, context, asked } = await setUp();
  player.play(clipOf(1));
  tape.report(1, { isDrained: true });
  context.state = state;
  asked.length = 0;
  again(player);
  expect(asked).toEqual(["resume"]);
  expect(player.playback.state).toBe("playing");
});

test("a device that cannot be had is asked for again, and breaks nothing", async () => {
  const { player, context, asked } = await setUp();
  const { resume } = context;
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  context.state = "suspended";
  context.resume = () => Promise.reject(new Error("There is no device."));
  await player.prepare();
  expect(warn).toHaveBeenCalledOnce();
  warn.mockRestore();
  context.resume = resume;
  await player.prepare();
  expect(asked.at(-1)).toBe("resume");
});

test("each piece is sent on as it comes", async () => {
  const { player, tape } = await setUp();
  const clip = new Clip(RATE);
  player.play(clip);
  expect(tape.heard()).toEqual(["clear false", "hold false"]);
  clip.append(samplesOf(3));
  expect(tape.heard()).toEqual(["push 3"]);
  clip.append(samplesOf(2, 3));
  clip.end();
  expect(tape.heard()).toEqual(["push 2", "end"]);
  expect(placesOf(tape)).toEqual([0, 1, 2, 3, 4]);
});

test("what comes before the output is ready is sent as soon as it is", async () => {
  const { player, ready } = await setUp(false);
  const clip = new Clip(RATE);
  player.play(clip);
  clip.append(samplesOf(3));
  clip.append(samplesOf(2));
  clip.end();
  expect((await ready()).slice(-2)).toEqual(["push 5", "end"]);
});

test("an output that is ready late still fades in from the midst, and is held while paused", async () => {
  const { player, ready } = await setUp(false);
  player.play(clipOf(9), 4);
  player.pause();
  expect(await ready()).toEqual(["clear true", "hold true", "push 5", "end"]);
});

test("no more is sent than the lead, and the end is told once", async () => {
  const { player, tape } = await setUp();
  player.play(clipOf(2 * LEAD + 50));
  expect(tape.samples).toHaveLength(LEAD);
  for (const played of [1, 100, LEAD, LEAD + 60, LEAD + 70, 2 * LEAD + 50]) {
    tape.report(played);
    expect(tape.samples.length).toBe(Math.min(2 * LEAD + 50, played + LEAD));
  }
  expect(tape.heard().filter((order) => order === "end")).toHaveLength(1);
  expect(placesOf(tape).at(-1)).toBe(2 * LEAD + 49);
});

test("what is played is told, and the end of it", async () => {
  const { player, tape } = await setUp();
  const seen: unknown[] = [];
  player.onChange = ({ state, position, bufferedS }) => seen.push([state, position, bufferedS]);
  player.play(clipOf(RATE));
  tape.report(40);
  tape.report(RATE, { isDrained: true });
  expect(seen.slice(-2)).toEqual([
    ["playing", 40, 0.6],
    ["ended", RATE, 0],
  ]);
  expect(player.playback.output).toBe("buffers");
});

test("the first audible sample is put on the clock of the page, once", async () => {
  const { player, tape } = await setUp();
  player.play(clipOf(9));
  tape.report(0, { firstAtS: null });
  expect(player.playback.firstAudibleMs).toBeNull();
  tape.report(1, { firstAtS: 2.25 });
  tape.report(2, { firstAtS: 3 });
  expect(player.playback.firstAudibleMs).toBe(5250);
});

test("without a timestamp of the device, its latency is reckoned with", async () => {
  const { player, tape, context } = await setUp();
  context.getOutputTimestamp = () => ({ contextTime: 0, performanceTime: 0 });
  player.play(clipOf(9));
  const before = performance.now();
  tape.report(1, { firstAtS: 1.25 });
  expect(player.playback.firstAudibleMs! - before).toBeGreaterThanOrEqual(750);
  expect(player.playback.firstAudibleMs! - performance.now()).toBeLessThanOrEqual(750);
});

test.each([
  [30, ["clear true", "hold false", "push 70", "end"]],
  [0, ["clear false", "hold false", "push 100", "end"]],
  [-5, ["clear false", "hold false", "push 100", "end"]],
  [200, ["clear true", "hold false", "end"]],
])("a seek to %i starts again from there", async (to, orders) => {
  const { player, tape } = await setUp();
  player.play(clipOf(100));
  tape.report(50);
  tape.heard();
  player.seek(to);
  expect(tape.heard()).toEqual(orders);
  const from = Math.max(0, Math.min(to, 100));
  expect(player.playback.position).toBe(from);
  expect(placesOf(tape)).toEqual([...samplesOf(100 - from, from)]);
  tape.report(7);
  expect(player.playback.position).toBe(from + 7);
});

test("underruns add up over seeks, and begin anew with another clip", async () => {
  const { player, tape } = await setUp();
  player.play(clipOf(100));
  tape.report(50, { underruns: 2 });
  player.seek(10);
  tape.report(5, { underruns: 0 });
  expect(player.playback.underruns).toBe(2);
  tape.report(9, { underruns: 1 });
  player.seek(20);
  expect(player.playback.underruns).toBe(3);
  player.play(clipOf(100));
  tape.report(1);
  expect(player.playback.underruns).toBe(0);
});

test("a pause holds the output, and what comes meanwhile is sent", async () => {
  const { player, tape } = await setUp();
  const clip = new Clip(RATE);
  player.play(clip);
  tape.heard();
  player.pause();
  clip.append(samplesOf(3));
  player.seek(1);
  expect(tape.heard()).toEqual(["hold true", "push 3", "clear true", "hold true", "push 2"]);
  expect(player.playback.state).toBe("paused");
  player.resume();
  expect(tape.heard()).toEqual(["hold false"]);
  expect(player.playback.state).toBe("playing");
});

test("a stop clears the output and stays where it is", async () => {
  const { player, tape } = await setUp();
  const clip = new Clip(RATE);
  player.play(clip);
  clip.append(samplesOf(50));
  tape.report(20);
  tape.heard();
  player.stop();
  clip.append(samplesOf(50));
  clip.end();
  tape.report(30);
  expect(tape.heard()).toEqual(["clear false"]);
  expect(player.playback).toMatchObject({ state: "ended", position: 20, bufferedS: 0 });
});

test.each([
  ["resumed", (player: Player) => player.resume(), 100],
  ["sought in", (player: Player) => player.seek(60), 40],
  ["played again", (player: Player) => player.play(player.playback.clip!), 100],
])("what was stopped and is %s plays", async (_, act, count) => {
  const { player, tape } = await setUp();
  player.play(clipOf(100));
  tape.report(20);
  player.stop();
  tape.heard();
  act(player);
  expect(tape.heard().slice(-2)).toEqual([`push ${count}`, "end"]);
  expect(player.playback.state).toBe("playing");
});

test("a clip that is no longer played moves nothing", async () => {
  const { player, tape } = await setUp();
  const first = new Clip(RATE);
  player.play(first);
  player.play(clipOf(10));
  tape.heard();
  first.append(samplesOf(50));
  first.end();
  expect(tape.heard()).toEqual([]);
});

test("nothing happens where nothing is played", async () => {
  const { player, tape } = await setUp();
  player.pause();
  player.resume();
  player.seek(3);
  player.stop();
  tape.report(3);
  expect(tape.heard()).toEqual([]);
  expect(player.playback.state).toBe("idle");
});
