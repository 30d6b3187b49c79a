/** What the player plays through: a way to the loudspeaker that says how far it is. */

export interface Report {
  /** Samples played since the last `clear`. */
  played: number;
  /** Samples that wait to be played. */
  queued: number;
  /** How often it has run dry, since the last `clear`. */
  underruns: number;
  /** Whether all has been played. */
  isDrained: boolean;
  /** When the first sample since the last `clear` is due at the device, on the context's clock in seconds. */
  firstAtS: number | null;
}

export interface Output {
  readonly kind: "worklet" | "buffers";
  /** Called some 25 times a second while it plays, and whenever it has come to its end. */
  onReport: ((report: Report) => void) | null;
  /** Plays samples, float in [-1, 1] at the context's rate, behind those that wait. */
  push(samples: Float32Array<ArrayBuffer>): void;
  /** Nothing more will come. */
  end(): void;
  /** Pauses, or goes on. */
  hold(isHeld: boolean): void;
  /** Throws away what waits; with `fadesIn` where what comes next is from the midst of speech. */
  clear(fadesIn: boolean): void;
}

/** Most samples that the player lets wait in an output, in seconds: a page in the background is seldom woken. */
export const LEAD_S = 20;

/** How long a fade takes where audio must stop or begin within a sound. */
export const FADE_S = 0.005;

/** How much must be there again after it has run dry. */
export const RESUME_S = 0.15;
