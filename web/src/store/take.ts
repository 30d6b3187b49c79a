/**
 * One utterance, from the moment somebody asks for it: loading its model, waiting, streaming, and how it ended.
 *
 *     loading ─▶ waiting ─▶ streaming ─▶ done
 *                 ▲   │         ├──────▶ failed (the audio that has come is kept)
 *                 │   ▼         └──────▶ stopped
 *                queued (refused for now, asks again by itself)
 */

import { signal } from "@preact/signals";
import { ApiFailure, isAbort } from "../services/api/http";
import { type LoadProgress, loadModel } from "../services/api/models";
import { type Mark, SAMPLE_RATE_HZ, type SpeechEvent, type SpeechSpec, speak } from "../services/api/speech";
import { type Figures, NO_FIGURES } from "../services/figures";
import { Clip } from "../services/player/clip";

export type TakeState = "loading" | "waiting" | "queued" | "streaming" | "done" | "stopped" | "failed";

/** Refusals that pass by themselves. */
const PASSING = new Set(["overloaded", "model_loading", "draining", "no_worker", "rate_limit_exceeded"]);

/** How often a refusal is taken for "not yet". */
const MOST_TRIES = 6;

/** The longest pause that is worth waiting for, in seconds. */
const LONGEST_PAUSE_S = 60;

export interface TakeOptions {
  /** Whether the model has to be loaded first, so that its progress can be shown. */
  loadsFirst?: boolean;
  /** When the user asked for it, on `performance`'s clock. */
  askedMs?: number;
}

export class Take {
  readonly id = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  readonly createdAt = Date.now();
  readonly clip = new Clip(SAMPLE_RATE_HZ);
  readonly state = signal<TakeState>("waiting");
  readonly loading = signal<LoadProgress | null>(null);
  /** When a queued one asks again, on `performance`'s clock. */
  readonly againAtMs = signal(0);
  readonly failure = signal<ApiFailure | null>(null);
  readonly marks = signal<Mark[]>([]);
  readonly figures = signal<Figures>(NO_FIGURES);
  /** What the server says of who speaks. */
  readonly spoken = signal({ model: "", voice: "", worker: "", ignored: "" });
  readonly askedMs: number;
  readonly #abort = new AbortController();
  readonly #loadsFirst: boolean;

  constructor(
    readonly spec: SpeechSpec,
    { loadsFirst = false, askedMs = performance.now() }: TakeOptions = {},
  ) {
    this.#loadsFirst = loadsFirst;
    this.askedMs = askedMs;
  }

  get isOver(): boolean {
    return ["done", "stopped", "failed"].includes(this.state.peek());
  }

  /** Asks for the speech; resolves when it is over, however it ends. */
  async run(): Promise<void> {
    try {
      if (this.#loadsFirst) await this.#load();
      for (let tries = 1; !(await this.#speak(tries)); tries++);
    } catch (error) {
      if (isAbort(error)) this.state.value = "stopped";
      else {
        this.failure.value =
          error instanceof ApiFailure ? error : new ApiFailure(String(error), 0, "unknown");
        this.state.value = "failed";
      }
    } finally {
      performance.mark("sonorant:stream-ended");
      this.clip.end();
    }
  }

  /** Ends the request, and with it the work at the server; the audio that has come stays. */
  stop(): void {
    this.#abort.abort();
  }

  measure(change: Partial<Figures>): void {
    this.figures.value = { ...this.figures.peek(), ...change };
  }

  async #load(): Promise<void> {
    this.state.value = "loading";
    for await (const progress of loadModel(this.spec.model, this.#abort.signal))
      this.loading.value = progress;
  }

  /** @returns false if it was refused for now and should be tried again. */
  async #speak(tries: number): Promise<boolean> {
    this.state.value = "waiting";
    performance.mark("sonorant:request");
    try {
      for await (const event of speak(this.spec, this.#abort.signal)) this.#take(event);
      this.state.value = "done";
      return true;
    } catch (error) {
      const pauseS = error instanceof ApiFailure && PASSING.has(error.code) ? error.retryAfterS : null;
      const hasBegun = this.clip.length > 0;
      if (hasBegun || pauseS === null || pauseS > LONGEST_PAUSE_S || tries >= MOST_TRIES) throw error;
      this.failure.value = error as ApiFailure;
      await this.#pause(pauseS);
      this.failure.value = null;
      return false;
    }
  }

  #take(event: SpeechEvent): void {
    if (event.kind === "begun") {
      const { kind: _, serverTtfaMs, ...spoken } = event;
      this.spoken.value = spoken;
      this.measure({ serverTtfaMs });
    } else if (event.kind === "audio") {
      if (!this.clip.length) {
        performance.mark("sonorant:first-chunk");
        this.measure({ firstChunkMs: performance.now() - this.askedMs });
        this.state.value = "streaming";
      }
      this.clip.append(event.samples);
    } else if (event.kind === "mark") {
      this.marks.value = withMark(this.marks.peek(), event.mark);
    } else {
      const { rtf, queue_ms, ttfa_ms } = event.figures;
      this.measure({
        rtf: rtf ?? null,
        queueMs: queue_ms ?? null,
        ...(ttfa_ms === undefined ? {} : { serverTtfaMs: ttfa_ms }),
      });
    }
  }

  async #pause(seconds: number): Promise<void> {
    this.state.value = "queued";
    this.againAtMs.value = performance.now() + 1000 * seconds;
    const { signal } = this.#abort;
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(resolve, 1000 * seconds);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(signal.reason);
      });
    });
  }
}

/** The segments, each once: a mark comes when its part begins, and again when its end is known. */
export function withMark(marks: Mark[], mark: Mark): Mark[] {
  if (mark.kind !== "segment") return marks;
  const at = marks.findIndex((each) => each.text_start === mark.text_start);
  return at < 0 ? [...marks, mark] : marks.with(at, mark);
}
