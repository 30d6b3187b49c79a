import { expect, test } from "vitest";
import { Clip } from "./clip";
import { Player } from "./player";

const RATE = 24_000;
const QUANTUM = 128;

/** One end of a wire whose messages come when the test says. */
class Port {
  onmessage: ((message: { data: unknown }) => void) | null = null;
  peer!: Port;
  inbox: unknown[] = [];

  postMessage(data: unknown, transfer: Transferable[] = []): void {
    this.peer.inbox.push(structuredClone(data, { transfer }));
  }

  deliver(): void {
    for (const data of this.inbox.splice(0)) this.onmessage?.({ data });
  }
}

interface Processor {
  port: Port;
  process(inputs: Float32Array[][], outputs: Float32Array[][]): boolean;
}

// The globals of an audio thread, and of a page that has one.
const page = new Port();
const thread = new Port();
page.peer = thread;
thread.peer = page;
let processor: Processor;
let make: new () => Processor;
Object.assign(globalThis, {
  sampleRate: RATE,
  currentTime: 0,
  AudioWorkletProcessor: class {
    port = thread;
  },
  registerProcessor: (_: string, kind: typeof make) => {
    make = kind;
  },
  AudioWorkletNode: class {
    port = page;
    constructor() {
      processor = new make();
    }
    connect() {}
  },
});

async function setUp() {
  const context = { state: "running", currentTime: 0, baseLatency: 0, audioWorklet: { addModule } };
  const player = new Player(RATE, undefined, () => context as unknown as AudioContext);
  await player.prepare();
  return player;
}

async function addModule(): Promise<void> {
  await import("./worklet");
}

/** Renders as an audio thread does, in two channels. */
function render(quanta: number): number[] {
  const out: number[] = [];
  for (let i = 0; i < quanta; i++) {
    thread.deliver();
    const [left, right] = [new Float32Array(QUANTUM), new Float32Array(QUANTUM)];
    processor.process([], [[left, right]]);
    expect(right).toEqual(left);
    out.push(...left);
    Object.assign(globalThis, { currentTime: currentTime + QUANTUM / RATE });
  }
  return out;
}

test("a clip comes out of the audio thread sample for sample, and its end is reported", async () => {
  const player = await setUp();
  const samples = Int16Array.from({ length: 3000 }, (_, i) => 8000 + i);
  const clip = new Clip(RATE);
  player.play(clip);
  clip.append(samples.subarray(0, 2000));
  const out = render(5);
  page.deliver();
  expect(player.playback).toMatchObject({ output: "worklet", state: "playing" });
  expect(player.playback.firstAudibleMs).not.toBeNull();
  expect(player.playback.position).toBeGreaterThanOrEqual(QUANTUM);
  clip.append(samples.subarray(2000));
  clip.end();
  out.push(...render(20));
  page.deliver();
  expect(out.slice(0, 3000)).toEqual(Array.from(samples, (sample) => sample / 32768));
  expect(player.playback).toMatchObject({ state: "ended", position: 3000, underruns: 0 });
});

test("reports from before a seek or another clip are ignored", async () => {
  const player = await setUp();
  player.play(Clip.of(new Int16Array(9000).fill(9), RATE));
  render(50); // Its reports are under way.
  player.seek(1000);
  page.deliver();
  expect(player.playback.position).toBe(1000);
  render(100); // To the end.
  player.play(Clip.of(new Int16Array(9000).fill(9), RATE));
  page.deliver();
  expect(player.playback).toMatchObject({ state: "playing", position: 0, firstAudibleMs: null });
});
