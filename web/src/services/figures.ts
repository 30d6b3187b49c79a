/** What is measured of a take; null for what is not known. */
export interface Figures {
  /** From the click until the first sample could be heard, in ms. */
  clientTtfaMs: number | null;
  /** From the click until the first audio had come, in ms. */
  firstChunkMs: number | null;
  /** From the request's arrival at the server until the first audio was there, in ms. */
  serverTtfaMs: number | null;
  /** Real-time factor: the server's work for each second of audio. */
  rtf: number | null;
  /** How long it waited at the server, in ms. */
  queueMs: number | null;
  /** How often playing has run dry here. */
  underruns: number;
}

export const NO_FIGURES: Figures = {
  clientTtfaMs: null,
  firstChunkMs: null,
  serverTtfaMs: null,
  rtf: null,
  queueMs: null,
  underruns: 0,
};
