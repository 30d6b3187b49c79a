/**
 * The ring buffer between what arrives in bursts and what is played without a stop; runs inside the AudioWorklet, and in
 * tests without one.
 *
 * Nothing is held back: the first sample is given out as soon as it is here. When the queue is about to run dry although
 * more is expected, it fades out over its last samples, waits until it has `resumeSamples`, and fades in again: a gap,
 * but no click, and no sample is lost. What is thrown away by `clear` fades out likewise.
 */

export interface QueueOptions {
  /** Most samples that it holds. */
  capacity: number;
  /** Length of a fade, in samples. */
  fadeSamples: number;
  /** How many samples must be there again after it has run dry. */
  resumeSamples: number;
}

export class AudioQueue {
  /** Samples given out since the last `clear`; silence does not count. */
  played = 0;
  /** How often it has run dry before its end, since the last `clear`. */
  underruns = 0;
  readonly #ring: Float32Array;
  readonly #options: QueueOptions;
  #read = 0;
  #length = 0;
  #isEnded = false;
  #isHeld = false;
  #isStalled = true;
  #hasBegun = false;
  #gain = 1;
  #tail = new Float32Array(0);

  constructor(options: QueueOptions) {
    this.#options = options;
    this.#ring = new Float32Array(options.capacity);
  }

  /** Samples that wait. */
  get length(): number {
    return this.#length;
  }

  /** Whether all has been given out. */
  get isDrained(): boolean {
    return this.#isEnded && !this.#length;
  }

  /** Whether silence is given out, for want of samples. */
  get isStalled(): boolean {
    return this.#isStalled;
  }

  /** Takes samples, as many as it has room for; returns how many. */
  push(samples: Float32Array): number {
    const count = Math.min(samples.length, this.#ring.length - this.#length);
    const start = (this.#read + this.#length) % this.#ring.length;
    const first = Math.min(count, this.#ring.length - start);
    this.#ring.set(samples.subarray(0, first), start);
    this.#ring.set(samples.subarray(first, count), 0);
    this.#length += count;
    return count;
  }

  /** Nothing more will come: what is here is given out to the last sample. */
  end(): void {
    this.#isEnded = true;
  }

  /** Stops giving out, or goes on; the samples stay. */
  hold(isHeld: boolean): void {
    this.#isHeld = isHeld;
  }

  /** Throws away what waits, and begins anew; with `fadesIn` where the next samples are from the midst of speech. */
  clear(fadesIn: boolean): void {
    if (!this.#isStalled && this.#gain > 0) {
      const count = Math.min(this.#options.fadeSamples, this.#length);
      this.#tail = Float32Array.from(
        { length: count },
        (_, i) => this.#at(i) * this.#gain * (1 - (i + 1) / count),
      );
    }
    this.#read = 0;
    this.#length = 0;
    this.played = 0;
    this.underruns = 0;
    this.#isEnded = false;
    this.#isStalled = true;
    this.#hasBegun = false;
    this.#gain = fadesIn ? 0 : 1;
  }

  /** Fills `out` with the next samples, or with silence; returns how many samples it has taken. */
  pull(out: Float32Array): number {
    const before = this.played;
    for (let i = 0; i < out.length; i++) out[i] = this.#next();
    const tail = this.#tail.subarray(0, out.length);
    tail.forEach((sample, i) => {
      out[i]! += sample;
    });
    this.#tail = this.#tail.subarray(tail.length);
    return this.played - before;
  }

  #next(): number {
    if (this.#isStalled && !this.#canGoOn()) return 0;
    const isRunningDry = !this.#isEnded && this.#length <= this.#options.fadeSamples;
    const step = 1 / this.#options.fadeSamples;
    this.#gain = Math.min(1, Math.max(0, this.#gain + (this.#isHeld || isRunningDry ? -step : step)));
    if (!this.#length || (this.#gain === 0 && (this.#isHeld || isRunningDry))) {
      if (!this.#isHeld && !this.#isEnded) this.underruns += 1;
      this.#isStalled = true;
      this.#gain = 0;
      return 0;
    }
    const sample = this.#at(0) * this.#gain;
    this.#read = (this.#read + 1) % this.#ring.length;
    this.#length -= 1;
    this.played += 1;
    return sample;
  }

  #canGoOn(): boolean {
    if (this.#isHeld || !this.#length) return false;
    if (!this.#isEnded && this.#length < this.#needed()) return false;
    this.#isStalled = false;
    this.#hasBegun = true;
    return true;
  }

  /** Samples to begin with, or to go on. */
  #needed(): number {
    if (this.#hasBegun) return this.#options.resumeSamples;
    return this.#gain ? 1 : this.#options.fadeSamples + 1; // With fewer, a fade-in would be a fade-out from the first.
  }

  #at(offset: number): number {
    return this.#ring[(this.#read + offset) % this.#ring.length]!;
  }
}
