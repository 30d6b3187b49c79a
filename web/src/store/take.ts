/**
 * One utterance, from the moment somebody asks for it: loading its model, waiting, streaming, and how it ended.
 *
 *     loading ─▶ waiting ─▶ streaming ─▶ done
 *                 ▲   │         ├──────▶ failed (the audio that has come is kept)
 *                 │   ▼         └──────▶ stopped
 *                queued (refused for now, asks again by itself)
 *
 * A long text is asked for piece by piece, and no piece before somebody is near the end of the one before: nobody works
 * for a listener who has gone, and the page holds what has been heard and a piece more.
 */

import { computed, signal } from "@preact/signals";
import { ApiFailure, isAbort } from "../services/api/http";
import { type LoadProgress, loadModel } from "../services/api/models";
import { type Mark, SAMPLE_RATE_HZ, type SpeechEvent, type SpeechSpec, speak } from "../services/api/speech";
import { type Figures, NO_FIGURES } from "../services/figures";
import { Clip } from "../services/player/clip";
import { countChars, piecesOf } from "./text";

export type TakeState = "loading" | "waiting" | "queued" | "streaming" | "done" | "stopped" | "failed";

/** Refusals that pass by themselves. */
const PASSING = new Set(["overloaded", "model_loading", "draining", "no_worker", "rate_limit_exceeded"]);

/** How often a refusal is taken for "not yet". */
const MOST_TRIES = 6;

/** The longest pause that is worth waiting for, in seconds. */
const LONGEST_PAUSE_S = 60;

/** The longest text of one request, in UTF-16 units: some nine minutes. */
const PIECE_UNITS = 8000;

/** The silence between two pieces, in seconds: that between two sentences. */
const BETWEEN_S = 0.4;

export interface TakeOptions {
  /** Whether the model has to be loaded first, so that its progress can be shown. */
  loadsFirst?: boolean;
  /** Where in the text it begins, in UTF-16 units. */
  from?: number;
  /** When the user asked for it, on `performance`'s clock. */
  askedMs?: number;
  /** Resolves when the next piece of a long text will be wanted soon; at once, if it is left out. */
  isNear?: (take: Take, signal: AbortSignal) => Promise<void>;
}

export class Take {
  readonly id = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  readonly createdAt = Date.now();
  readonly clip = new Clip(SAMPLE_RATE_HZ);
  readonly state = signal<TakeState>("waiting");
  readonly isOver = computed(() => ["done", "stopped", "failed"].includes(this.state.value));
  readonly loading = signal<LoadProgress | null>(null);
  /** When a queued one asks again, on `performance`'s clock. */
  readonly againAtMs = signal(0);
  readonly failure = signal<ApiFailure | null>(null);
  readonly marks = signal<Mark[]>([]);
  readonly figures = signal<Figures>(NO_FIGURES);
  /** What the server says of who speaks. */
  readonly spoken = signal({ model: "", voice: "", worker: "", ignored: "" });
  readonly askedMs: number;
  /** Where in the text it begins, in UTF-16 units; its marks are those of the whole text all the same. */
  readonly from: number;
  readonly #abort = new AbortController();
  readonly #options: TakeOptions;
  // Where the piece under way begins, in the text (code points) and in the clip (samples).
  #firstChar = 0;
  #firstSample = 0;
  // How much of the audio the real-time factor is known of, in samples.
  #numRated = 0;

  constructor(
    readonly spec: SpeechSpec,
    options: TakeOptions = {},
  ) {
    this.#options = options;
    this.askedMs = options.askedMs ?? performance.now();
    this.from = options.from ?? 0;
  }

  /** Asks for the speech; resolves when it is over, however it ends. */
  async run(): Promise<void> {
    try {
      if (this.#options.loadsFirst) await this.#load();
      const text = this.spec.input.slice(this.from);
      for (const { start, end } of piecesOf(text, PIECE_UNITS)) {
        if (this.clip.length) await this.#next();
        this.#firstChar = countChars(this.spec.input.slice(0, this.from + start));
        const piece = { ...this.spec, input: text.slice(start, end) };
        for (let tries = 1; !(await this.#speak(piece, tries)); tries++);
      }
      this.state.value = "done";
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

  /** Waits until another piece is wanted, and gets ready for it. */
  async #next(): Promise<void> {
    const { signal } = this.#abort;
    await unlessAborted(this.#options.isNear?.(this, signal) ?? Promise.resolve(), signal);
    this.clip.append(new Int16Array(BETWEEN_S * SAMPLE_RATE_HZ));
    this.#firstSample = this.clip.length;
  }

  /** @returns false if it was refused for now and should be tried again. */
  async #speak(piece: SpeechSpec, tries: number): Promise<boolean> {
    this.state.value = this.clip.length ? "streaming" : "waiting";
    performance.mark("sonorant:request");
    try {
      for await (const event of speak(piece, this.#abort.signal)) this.#take(event);
      return true;
    } catch (error) {
      const pauseS = error instanceof ApiFailure && PASSING.has(error.code) ? error.retryAfterS : null;
      const hasBegun = this.clip.length > this.#firstSample;
      if (hasBegun || pauseS === null || pauseS > LONGEST_PAUSE_S || tries >= MOST_TRIES) throw error;
      this.failure.value = error as ApiFailure;
      await this.#pause(pauseS).finally(() => {
        this.failure.value = null;
      });
      return false;
    }
  }

  #take(event: SpeechEvent): void {
    if (event.kind === "begun") {
      const { kind: _, serverTtfaMs, ...spoken } = event;
      this.spoken.value = spoken;
      if (!this.#firstSample) this.measure({ serverTtfaMs });
    } else if (event.kind === "audio") {
      if (!this.clip.length) {
        performance.mark("sonorant:first-chunk");
        this.measure({ firstChunkMs: performance.now() - this.askedMs });
        this.state.value = "streaming";
      }
      this.clip.append(event.samples);
    } else if (event.kind === "mark") {
      this.marks.value = withMark(this.marks.peek(), this.#placed(event.mark));
    } else {
      const { rtf = null, queue_ms = null, ttfa_ms } = event.figures;
      if (rtf !== null) this.measure({ rtf: this.#rtfWith(rtf) });
      if (!this.#firstSample) this.measure({ queueMs: queue_ms, ...(ttfa_ms && { serverTtfaMs: ttfa_ms }) });
    }
  }

  /** The real-time factor of all that has come: that of each piece counts for as much as there is of its audio. */
  #rtfWith(rtf: number): number {
    const numNew = this.clip.length - this.#firstSample;
    this.#numRated += numNew;
    const before = this.figures.peek().rtf ?? rtf;
    return before + (rtf - before) * (numNew / Math.max(1, this.#numRated));
  }

  /** A mark of the piece under way, as one of the whole. */
  #placed(mark: Mark): Mark {
    const firstMs = (1000 * this.#firstSample) / SAMPLE_RATE_HZ;
    return {
      ...mark,
      text_start: mark.text_start + this.#firstChar,
      text_end: mark.text_end + this.#firstChar,
      start_ms: mark.start_ms + firstMs,
      end_ms: mark.end_ms === null ? null : mark.end_ms + firstMs,
    };
  }

  async #pause(seconds: number): Promise<void> {
    this.state.value = "queued";
    this.againAtMs.value = performance.now() + 1000 * seconds;
    await unlessAborted(new Promise((resolve) => setTimeout(resolve, 1000 * seconds)), this.#abort.signal);
  }
}

/** @throws the signal's reason, if it comes before the work is done. */
function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const onAbort = () => reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** The segments, each once: a mark comes when its part begins, and again when its end is known. */
export function withMark(marks: Mark[], mark: Mark): Mark[] {
  if (mark.kind !== "segment") return marks;
  const at = marks.findIndex((each) => each.text_start === mark.text_start);
  return at < 0 ? [...marks, mark] : marks.with(at, mark);
}
