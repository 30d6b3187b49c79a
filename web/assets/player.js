// Plays a stream of 16-bit PCM while it arrives. Knows Web Audio, and nothing of the page or the API.

const FIRST_LEAD_S = 0.05; // Room for the second chunk to arrive before the first has been played.

export class Player {
  constructor(sampleRateHz) {
    this.context = new AudioContext({ sampleRate: sampleRateHz });
    this.next = 0; // When the sample after the last scheduled one is due, on the context's clock.
    this.numSamples = 0;
    this.underruns = 0;
    this.half = null; // A chunk may end in the middle of a sample.
  }

  // Browsers let a page sound only from within a user's action: call this there.
  start() {
    return this.context.resume();
  }

  // Schedules the samples in a Uint8Array behind those that are scheduled already.
  feed(bytes) {
    const samples = this.#samples(bytes);
    if (!samples.length) return;
    const buffer = this.context.createBuffer(1, samples.length, this.context.sampleRate);
    buffer.copyToChannel(samples, 0);
    const now = this.context.currentTime;
    if (this.next < now) {
      if (this.numSamples) this.underruns += 1;
      this.next = now + FIRST_LEAD_S;
    }
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    source.start(this.next);
    if (!this.numSamples) performance.mark("first-audio-scheduled");
    this.next += samples.length / this.context.sampleRate;
    this.numSamples += samples.length;
  }

  // Resolves when all that was fed has been played, or when the player is closed.
  async played() {
    while (this.context.state === "running" && this.context.currentTime < this.next) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async close() {
    if (this.context.state !== "closed") await this.context.close();
  }

  #samples(bytes) {
    let whole = bytes;
    if (this.half !== null) {
      whole = new Uint8Array(bytes.length + 1);
      whole[0] = this.half;
      whole.set(bytes, 1);
    }
    const count = whole.length >> 1;
    this.half = whole.length % 2 ? whole[whole.length - 1] : null;
    const view = new DataView(whole.buffer, whole.byteOffset, 2 * count);
    return Float32Array.from({ length: count }, (_, i) => view.getInt16(2 * i, true) / 32768);
  }
}
