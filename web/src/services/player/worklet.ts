/** The processor on the audio thread: gives out what its queue has. Messages come from `WorkletOutput`. */

import { FADE_S, LEAD_S, RESUME_S, type Report } from "./output";
import { AudioQueue } from "./queue";

export type Order =
  | { kind: "push"; samples: Float32Array }
  | { kind: "end" }
  | { kind: "hold"; isHeld: boolean }
  | { kind: "clear"; fadesIn: boolean; era: number };

/** A report says which `clear` it comes after, so that late ones can be told. */
export type EraReport = Report & { era: number };

const REPORT_S = 0.04;

class QueueProcessor extends AudioWorkletProcessor {
  readonly #queue = new AudioQueue({
    capacity: Math.ceil((LEAD_S + 5) * sampleRate),
    fadeSamples: Math.round(FADE_S * sampleRate),
    resumeSamples: Math.round(RESUME_S * sampleRate),
  });
  #era = 0;
  #firstAtS: number | null = null;
  #reportedAtS = 0;
  #wasDrained = false;

  constructor() {
    super();
    this.port.onmessage = ({ data }: MessageEvent<Order>) => this.#obey(data);
  }

  #obey(order: Order): void {
    if (order.kind === "push") this.#queue.push(order.samples);
    else if (order.kind === "end") this.#queue.end();
    else if (order.kind === "hold") this.#queue.hold(order.isHeld);
    else {
      this.#queue.clear(order.fadesIn);
      this.#era = order.era;
      this.#firstAtS = null;
      this.#wasDrained = false;
    }
  }

  process(_inputs: Float32Array[][], outputs: Float32Array[][]): boolean {
    const [first, ...others] = outputs[0]!;
    const count = this.#queue.pull(first!);
    for (const channel of others) channel.set(first!);
    const isFirst = count > 0 && this.#firstAtS === null;
    if (isFirst) this.#firstAtS = currentTime;
    const isDrained = this.#queue.isDrained;
    if (isFirst || isDrained !== this.#wasDrained || (count && currentTime - this.#reportedAtS >= REPORT_S)) {
      this.#reportedAtS = currentTime;
      this.#wasDrained = isDrained;
      const report: EraReport = {
        era: this.#era,
        played: this.#queue.played,
        queued: this.#queue.length,
        underruns: this.#queue.underruns,
        isDrained,
        firstAtS: this.#firstAtS,
      };
      this.port.postMessage(report);
    }
    return true;
  }
}

registerProcessor("sonorant-queue", QueueProcessor);
