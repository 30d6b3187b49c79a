/**
 * The way to the loudspeaker where there is no AudioWorklet, as on pages that come by plain HTTP from another machine:
 * buffers, each scheduled at the end of the one before.
 */

import { FADE_S, type Output, RESUME_S, type Report } from "./output";

const REPORT_MS = 40;

/** How far ahead the first buffer is scheduled: what is due now has begun when the device gets to it, and would overlap. */
const MARGIN_S = 0.025;

interface Scheduled {
  source: AudioBufferSourceNode;
  startS: number;
  numSamples: number;
}

export class BufferOutput implements Output {
  readonly kind = "buffers";
  onReport: ((report: Report) => void) | null = null;
  readonly #context: AudioContext;
  #gain: GainNode;
  #scheduled: Scheduled[] = [];
  #waiting: Float32Array<ArrayBuffer>[] = [];
  #played = 0;
  #underruns = 0;
  #nextS = 0;
  #firstAtS: number | null = null;
  #isEnded = false;
  #isHeld = false;
  #fadesIn = false;
  #timer: ReturnType<typeof setInterval> | null = null;

  constructor(context: AudioContext) {
    this.#context = context;
    this.#gain = this.#newGain();
  }

  push(samples: Float32Array<ArrayBuffer>): void {
    this.#waiting.push(samples);
    this.#schedule();
    this.#watch();
  }

  end(): void {
    this.#isEnded = true;
    this.#schedule();
    this.#watch();
  }

  hold(isHeld: boolean): void {
    if (isHeld === this.#isHeld) return;
    this.#isHeld = isHeld;
    // What sounds is faded, and played again from where it was.
    if (isHeld) this.#takeBack();
    else {
      this.#nextS = 0;
      this.#fadesIn ||= this.#played > 0;
      this.#schedule();
      this.#watch();
    }
  }

  clear(fadesIn: boolean): void {
    this.#takeBack();
    this.#waiting = [];
    this.#played = 0;
    this.#underruns = 0;
    this.#nextS = 0;
    this.#firstAtS = null;
    this.#isEnded = false;
    this.#fadesIn = fadesIn;
    this.#rest();
  }

  #schedule(): void {
    if (this.#isHeld || !this.#waiting.length) return;
    const nowS = this.#context.currentTime;
    const rate = this.#context.sampleRate;
    if (this.#nextS <= nowS) {
      const hasRunDry = this.#firstAtS !== null && !this.#fadesIn;
      const queued = this.#waiting.reduce((sum, each) => sum + each.length, 0);
      if (hasRunDry && !this.#isEnded && queued < RESUME_S * rate) return;
      if (hasRunDry) this.#underruns += 1;
      if (this.#fadesIn || hasRunDry) {
        this.#gain.gain.setValueAtTime(0, nowS + MARGIN_S);
        this.#gain.gain.linearRampToValueAtTime(1, nowS + MARGIN_S + FADE_S);
      }
      this.#fadesIn = false;
      this.#nextS = nowS + MARGIN_S;
    }
    // All that waits is one buffer: of several, later ones would begin in time where the first one was late.
    const samples = joined(this.#waiting.splice(0));
    const buffer = this.#context.createBuffer(1, samples.length, rate);
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#gain);
    source.start(this.#nextS);
    this.#firstAtS ??= this.#nextS;
    this.#scheduled.push({ source, startS: this.#nextS, numSamples: samples.length });
    this.#nextS += samples.length / rate;
  }

  /** Samples of the scheduled buffers that have sounded. */
  #sounded(): number {
    const rate = this.#context.sampleRate;
    const nowS = this.#context.currentTime;
    while (this.#scheduled[0] && this.#scheduled[0].startS + this.#scheduled[0].numSamples / rate <= nowS) {
      this.#played += this.#scheduled.shift()!.numSamples;
    }
    const current = this.#scheduled[0];
    return current
      ? Math.max(0, Math.min(current.numSamples, Math.round((nowS - current.startS) * rate)))
      : 0;
  }

  #takeBack(): void {
    const sounded = this.#sounded();
    const [current, ...others] = this.#scheduled;
    const left: Float32Array<ArrayBuffer>[] = [];
    if (current) left.push(current.source.buffer!.getChannelData(0).slice(sounded));
    left.push(...others.map((each) => each.source.buffer!.getChannelData(0).slice()));
    this.#played += sounded;
    this.#waiting = [...left, ...this.#waiting];
    const stopS = this.#context.currentTime + FADE_S;
    this.#gain.gain.setValueAtTime(1, this.#context.currentTime);
    this.#gain.gain.linearRampToValueAtTime(0, stopS);
    for (const { source } of this.#scheduled) source.stop(stopS);
    this.#scheduled = [];
    this.#gain = this.#newGain();
  }

  #newGain(): GainNode {
    const gain = new GainNode(this.#context);
    gain.connect(this.#context.destination);
    return gain;
  }

  #watch(): void {
    this.#timer ??= setInterval(() => this.#report(), REPORT_MS);
  }

  #rest(): void {
    clearInterval(this.#timer ?? undefined);
    this.#timer = null;
  }

  #report(): void {
    this.#schedule();
    const sounded = this.#sounded();
    const queued = [...this.#scheduled, ...this.#waiting].reduce(
      (sum, each) => sum + ("numSamples" in each ? each.numSamples : each.length),
      -sounded,
    );
    const isDrained = this.#isEnded && !queued;
    if (isDrained || this.#isHeld) this.#rest();
    this.onReport?.({
      played: this.#played + sounded,
      queued,
      underruns: this.#underruns,
      isDrained,
      firstAtS: this.#firstAtS,
    });
  }
}

function joined(pieces: Float32Array<ArrayBuffer>[]): Float32Array<ArrayBuffer> {
  if (pieces.length === 1) return pieces[0]!;
  const whole = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
