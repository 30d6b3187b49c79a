/** The way to the loudspeaker that an AudioWorklet paves; needs a secure context (HTTPS, or this machine). */

import type { Output, Report } from "./output";
import type { EraReport, Order } from "./worklet";
import url from "./worklet.ts?worker&url";

export class WorkletOutput implements Output {
  readonly kind = "worklet";
  onReport: ((report: Report) => void) | null = null;
  #era = 0;

  private constructor(readonly node: AudioWorkletNode) {
    node.port.onmessage = ({ data }: MessageEvent<EraReport>) => {
      if (data.era === this.#era) this.onReport?.(data);
    };
  }

  /** @throws DOMException if the processor cannot be loaded. */
  static async on(context: AudioContext): Promise<WorkletOutput> {
    await context.audioWorklet.addModule(url);
    const node = new AudioWorkletNode(context, "sonorant-queue", {
      numberOfInputs: 0,
      outputChannelCount: [1],
    });
    node.connect(context.destination);
    return new WorkletOutput(node);
  }

  push(samples: Float32Array<ArrayBuffer>): void {
    this.#order({ kind: "push", samples }, [samples.buffer]);
  }

  end(): void {
    this.#order({ kind: "end" });
  }

  hold(isHeld: boolean): void {
    this.#order({ kind: "hold", isHeld });
  }

  clear(fadesIn: boolean): void {
    this.#era += 1;
    this.#order({ kind: "clear", fadesIn, era: this.#era });
  }

  #order(order: Order, transfer: Transferable[] = []): void {
    this.node.port.postMessage(order, transfer);
  }
}
