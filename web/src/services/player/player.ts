/**
 * Plays clips, also while they still arrive: one at a time, from anywhere. The only module that touches Web Audio.
 *
 * It hands an output what the clip has, up to `LEAD_S` ahead, and more as the output reports what it has played.
 */

import { BufferOutput } from "./buffer-output";
import type { Clip } from "./clip";
import { LEAD_S, type Output, type Report } from "./output";
import { toFloats } from "./pcm";
import { WorkletOutput } from "./worklet-output";

export interface Playback {
  clip: Clip | null;
  /** `playing` also while it waits for samples. */
  state: "idle" | "playing" | "paused" | "ended";
  /** Where in the clip it is, in samples. */
  position: number;
  /** Audio that is here and has not been played, in seconds. */
  bufferedS: number;
  /** How often it has run dry, in all. */
  underruns: number;
  /** When its first sample could be heard, on `performance`'s clock in ms; null before. */
  firstAudibleMs: number | null;
  /** Which way to the loudspeaker is used; null before the first. */
  output: Output["kind"] | null;
}

const NOTHING: Playback = {
  clip: null,
  state: "idle",
  position: 0,
  bufferedS: 0,
  underruns: 0,
  firstAudibleMs: null,
  output: null,
};

/** How long the device stays on when nothing is played, in ms: to turn it on takes a moment, to leave it on costs power. */
const REST_AFTER_MS = 60_000;

/** A clock and a device, at a rate. */
function contextAt(sampleRateHz: number): AudioContext {
  return new AudioContext({ sampleRate: sampleRateHz, latencyHint: "interactive" });
}

/** The best way to the loudspeaker that there is. */
async function outputOn(context: AudioContext): Promise<Output> {
  if (!context.audioWorklet) return new BufferOutput(context);
  return WorkletOutput.on(context).catch(() => new BufferOutput(context));
}

export class Player {
  /** Called whenever `playback` has changed. */
  onChange: ((playback: Playback) => void) | null = null;
  playback: Playback = NOTHING;
  #context: AudioContext | null = null;
  #output: Promise<Output> | null = null;
  #ready: Output | null = null;
  #sent = 0; // Where in the clip the output's samples end.
  #from = 0; // Where in the clip those since the last `clear` begin.
  #underrunsBefore = 0;
  #hasEnded = false; // Whether the output has been told of the end.
  #scheduledMs = 0; // When the first of those was handed over.
  #resting: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly sampleRateHz: number,
    private readonly newOutput: (context: AudioContext) => Promise<Output> = outputOn,
    private readonly newContext: (sampleRateHz: number) => AudioContext = contextAt,
  ) {}

  /**
   * Gets the device ready. Browsers allow sound only from within a user's action: call this there, and early.
   *
   * Without a device there is no sound, and it is asked for again the next time.
   */
  async prepare(): Promise<void> {
    await this.#wake().catch((error: unknown) => {
      if (!this.#ready) this.#output = null;
      console.warn("There is no sound:", error);
    });
  }

  async #wake(): Promise<void> {
    this.#context ??= this.newContext(this.sampleRateHz);
    this.#output ??= this.#open(this.#context);
    this.#restLater();
    // Also from "interrupted", as iOS says after a call.
    if (this.#context.state !== "running") await this.#context.resume();
    await this.#output;
  }

  /** Plays a clip from a place in it, in samples; what was played before stops. */
  play(clip: Clip, from = 0): void {
    this.#detach();
    this.#underrunsBefore = 0;
    this.#set({ ...NOTHING, clip, state: "playing", output: this.#ready?.kind ?? null });
    this.#restart(from);
    void this.prepare();
  }

  /** Goes to a place in the clip, in samples. */
  seek(to: number): void {
    const { clip, state } = this.playback;
    if (!clip) return;
    this.#underrunsBefore = this.playback.underruns;
    if (state === "ended") this.#set({ state: "playing" });
    this.#restart(Math.max(0, Math.min(to, clip.length)));
    // The device may be at rest, and not every click comes with an event that has it prepared.
    if (this.playback.state === "playing") void this.prepare();
  }

  pause(): void {
    if (this.playback.state !== "playing") return;
    this.#ready?.hold(true);
    this.#set({ state: "paused" });
  }

  resume(): void {
    if (this.playback.state === "ended") this.seek(0);
    if (this.playback.state !== "paused") return;
    this.#ready?.hold(false);
    this.#set({ state: "playing" });
    void this.prepare();
  }

  /** Stops at once, and stays where it is. */
  stop(): void {
    if (this.playback.state === "idle") return;
    this.#ready?.clear(false);
    this.#detach();
    this.#hasEnded = true;
    if (this.playback.clip) this.#set({ state: "ended", bufferedS: 0 });
  }

  async #open(context: AudioContext): Promise<Output> {
    const output = await this.newOutput(context);
    output.onReport = (report) => this.#take(report);
    this.#ready = output;
    this.#set({ output: output.kind });
    if (this.#from > 0) output.clear(true);
    if (this.playback.state === "paused") output.hold(true);
    this.#pump();
    return output;
  }

  #restart(from: number): void {
    this.#from = from;
    this.#sent = from;
    this.#hasEnded = false;
    this.playback.clip!.onChange = () => this.#pump();
    this.#ready?.clear(from > 0);
    this.#ready?.hold(this.playback.state === "paused");
    this.#set({ position: from });
    this.#pump();
  }

  #pump(): void {
    const { clip, state } = this.playback;
    if (!clip || !this.#ready || state === "ended" || state === "idle") return;
    const end = Math.min(clip.length, this.playback.position + LEAD_S * this.sampleRateHz);
    if (end > this.#sent) {
      if (this.#sent === this.#from) this.#scheduledMs = performance.now();
      if (this.#sent === 0) performance.mark("sonorant:first-scheduled");
      this.#ready.push(toFloats(clip.samples.subarray(this.#sent, end)));
      this.#sent = end;
    }
    if (clip.isComplete && this.#sent === clip.length && !this.#hasEnded) {
      this.#hasEnded = true;
      this.#ready.end();
    }
  }

  #take(report: Report): void {
    const { clip, state } = this.playback;
    if (!clip || state === "ended") return;
    const position = this.#from + report.played;
    const change: Partial<Playback> = {
      position,
      bufferedS: (clip.length - position) / this.sampleRateHz,
      underruns: this.#underrunsBefore + report.underruns,
    };
    if (this.playback.firstAudibleMs === null && report.firstAtS !== null) {
      // The two clocks are told apart by some milliseconds, and nothing is heard before it has been handed over.
      change.firstAudibleMs = Math.max(this.#scheduledMs, this.#heardAtMs(report.firstAtS));
      performance.mark("sonorant:first-audible", { startTime: change.firstAudibleMs });
    }
    if (report.isDrained) {
      this.#detach();
      change.state = "ended";
    }
    this.#set(change);
    this.#pump();
  }

  /** When a moment of the context's clock is heard, on `performance`'s clock. */
  #heardAtMs(contextS: number): number {
    const context = this.#context!;
    const { contextTime, performanceTime } = context.getOutputTimestamp?.() ?? {};
    if (contextTime && performanceTime) return performanceTime + 1000 * (contextS - contextTime);
    return (
      performance.now() +
      1000 * (contextS - context.currentTime + (context.outputLatency || context.baseLatency))
    );
  }

  #detach(): void {
    if (this.playback.clip) this.playback.clip.onChange = null;
  }

  #restLater(): void {
    clearTimeout(this.#resting);
    if (this.playback.state === "playing") return;
    this.#resting = setTimeout(() => void this.#context?.suspend(), REST_AFTER_MS);
  }

  #set(change: Partial<Playback>): void {
    this.playback = { ...this.playback, ...change };
    this.#restLater();
    this.onChange?.(this.playback);
  }
}
