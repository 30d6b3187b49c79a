/** Reads a stream of 16-bit PCM whose pieces may end anywhere, and turns samples into floats. */

/** Puts bytes together to samples, s16le; the odd byte at the end of a piece waits for its other half. */
export class SampleReader {
  #half: number | null = null;

  /** Whether the bytes so far end within a sample. */
  get isWithinSample(): boolean {
    return this.#half !== null;
  }

  read(bytes: Uint8Array): Int16Array<ArrayBuffer> {
    const whole = new Uint8Array(bytes.length + (this.#half === null ? 0 : 1));
    if (this.#half !== null) whole[0] = this.#half;
    whole.set(bytes, whole.length - bytes.length);
    const count = whole.length >> 1;
    this.#half = whole.length % 2 ? whole[whole.length - 1]! : null;
    const view = new DataView(whole.buffer);
    return Int16Array.from({ length: count }, (_, i) => view.getInt16(2 * i, true));
  }
}

/** Samples of 16 bits as floats in [-1, 1). */
export function toFloats(samples: Int16Array): Float32Array<ArrayBuffer> {
  return Float32Array.from(samples, (sample) => sample / 32768);
}

/** A WAV file of one channel: the canonical header of 44 bytes, then the samples. */
export function toWav(samples: Int16Array, sampleRateHz: number): Blob {
  const header = new DataView(new ArrayBuffer(44));
  const text = (at: number, value: string) => {
    for (let i = 0; i < value.length; i++) header.setUint8(at + i, value.charCodeAt(i));
  };
  const numBytes = 2 * samples.length;
  text(0, "RIFF");
  header.setUint32(4, 36 + numBytes, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, 1, true);
  header.setUint32(24, sampleRateHz, true);
  header.setUint32(28, 2 * sampleRateHz, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  text(36, "data");
  header.setUint32(40, numBytes, true);
  const data = new DataView(new ArrayBuffer(numBytes));
  samples.forEach((sample, i) => {
    data.setInt16(2 * i, sample, true);
  });
  return new Blob([header.buffer, data.buffer], { type: "audio/wav" });
}
