/** The audio of one take, kept while it arrives and after; knows nothing of playing it. */

/** Samples for each value of `Clip.peaks`: 10 ms at 24 kHz. */
export const PEAK_SAMPLES = 240;

const FIRST_CAPACITY = 1 << 17;

export class Clip {
  /** Called when samples have come, and at the end. */
  onChange: (() => void) | null = null;
  /** The greatest magnitude in each `PEAK_SAMPLES` samples, in [0, 1]; those of samples that have come. */
  readonly peaks: number[] = [];
  /** The greatest of these. */
  loudest = 0;
  #samples = new Int16Array(FIRST_CAPACITY);
  #length = 0;
  #isComplete = false;

  constructor(readonly sampleRateHz: number) {}

  /** A clip that is complete from the first. */
  static of(samples: Int16Array, sampleRateHz: number): Clip {
    const clip = new Clip(sampleRateHz);
    clip.append(samples);
    clip.end();
    return clip;
  }

  /** Number of samples that have come. */
  get length(): number {
    return this.#length;
  }

  get durationS(): number {
    return this.#length / this.sampleRateHz;
  }

  /** Whether nothing more will come. */
  get isComplete(): boolean {
    return this.#isComplete;
  }

  /** The samples that have come; a view, not a copy. */
  get samples(): Int16Array {
    return this.#samples.subarray(0, this.#length);
  }

  append(samples: Int16Array): void {
    const length = this.#length + samples.length;
    if (length > this.#samples.length) {
      const larger = new Int16Array(Math.max(length, 2 * this.#samples.length));
      larger.set(this.samples);
      this.#samples = larger;
    }
    this.#samples.set(samples, this.#length);
    this.#measure(this.#length, length);
    this.#length = length;
    this.onChange?.();
  }

  end(): void {
    this.#isComplete = true;
    this.onChange?.();
  }

  #measure(from: number, to: number): void {
    for (let i = from; i < to; i++) {
      const at = Math.floor(i / PEAK_SAMPLES);
      const magnitude = Math.abs(this.#samples[i]!) / 32768;
      if (magnitude >= (this.peaks[at] ?? 0)) this.peaks[at] = magnitude;
      if (magnitude > this.loudest) this.loudest = magnitude;
    }
  }
}
