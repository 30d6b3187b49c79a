/** What is being said now, and played: the take of the speak screen, and the one player of the page. */

import { effect, signal } from "@preact/signals";
import { SAMPLE_RATE_HZ, type SpeechSpec } from "../services/api/speech";
import type { Figures } from "../services/figures";
import type { Clip } from "../services/player/clip";
import { type Playback, Player } from "../services/player/player";
import { announce } from "./announce";
import { modelOf, stateOf } from "./catalogue";
import * as draft from "./draft";
import { note, save } from "./history";
import { Take, type TakeOptions } from "./take";

const player = new Player(SAMPLE_RATE_HZ);

/** The take of the speak screen; null before the first. */
export const take = signal<Take | null>(null);
export const playback = signal<Playback>(player.playback);

/** The take whose clip is played, whatever screen it is of. */
let played: Take | null = null;

/** Whether this play was asked for together with its take: a later one's first sound tells of no wait. */
let isFirstPlay = false;

/** The takes under way, whatever screen they are of. */
const running = new Set<Take>();

player.onChange = (now) => {
  playback.value = now;
  if (!played || played.clip !== now.clip) return;
  const { clientTtfaMs, underruns } = played.figures.peek();
  const change: Partial<Figures> = {};
  if (isFirstPlay && now.firstAudibleMs !== null && clientTtfaMs === null) {
    change.clientTtfaMs = now.firstAudibleMs - played.askedMs;
  }
  if (now.underruns > underruns) change.underruns = now.underruns;
  if (!Object.keys(change).length) return;
  played.measure(change);
  // A short one is over, and kept, before it is first heard.
  if (played.isOver.peek()) void note(played);
};

/** Gets the loudspeaker ready; call it within what the user does first. */
export function prepare(): void {
  void player.prepare();
}

/** How much unheard sound there may be when the next piece of a long text is asked for, in seconds. */
const NEAR_S = 60;

/** Resolves when the end of a take's sound is near for whoever listens to it. */
function isNear(to: Take, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const stopWatching = effect(() => {
      const { clip, position } = playback.value;
      if (clip !== to.clip || clip.length - position > NEAR_S * SAMPLE_RATE_HZ) return;
      queueMicrotask(() => stopWatching());
      resolve();
    });
    signal.addEventListener("abort", stopWatching, { once: true });
  });
}

/** A take that loads its model first, if no worker has it in memory. */
export function takeOf(spec: SpeechSpec, options: TakeOptions = {}): Take {
  const model = modelOf(spec.model);
  return new Take(spec, {
    loadsFirst: model !== undefined && stateOf(model) !== "ready",
    isNear,
    ...options,
  });
}

/** Asks for a take's speech; resolves when it is over. Until then `stop` ends it. */
export async function run(mine: Take): Promise<void> {
  running.add(mine);
  await mine.run();
  running.delete(mine);
}

/** Plays a take as it comes; `isAsked` if that is what it was asked for just now. */
export function listen(to: Take, isAsked = true): void {
  played = to;
  isFirstPlay = isAsked;
  player.play(to.clip);
}

/** Plays a clip from a place in it, in samples. */
export function play(clip: Clip, from = 0): void {
  if (played?.clip !== clip) played = null;
  isFirstPlay = false;
  player.play(clip, from);
}

/** Says the draft, or a part of it. */
export async function speak(input: string = draft.text.peek()): Promise<void> {
  if (!input.trim()) return;
  await speakSpec(draft.spec(input));
}

/** Says something on the speak screen, from a place in its text, in UTF-16 units. */
export async function speakSpec(spec: SpeechSpec, from = 0): Promise<void> {
  performance.mark("sonorant:asked");
  stop();
  const mine = takeOf(spec, { from });
  take.value = mine;
  listen(mine);
  announce("Waiting for the first audio.");
  const stopAnnouncing = mine.state.subscribe((state) => {
    if (state === "streaming") announce("Playing.");
    if (state === "loading") announce("Loading the model.");
    if (state === "queued") announce("The server is busy; trying again soon.");
  });
  await run(mine);
  stopAnnouncing();
  if (mine.state.peek() === "failed") announce(`Failed: ${mine.failure.peek()?.message}`);
  else if (mine.state.peek() === "done") announce(`${mine.clip.durationS.toFixed(1)} seconds have come.`);
  await save(mine);
}

/** Stops the sound, and the work at the server for whatever screen: only one of them speaks. */
export function stop(): void {
  if (running.size) announce("Stopped.");
  for (const each of running) each.stop();
  running.clear();
  isFirstPlay = false;
  player.stop();
}

export function pause(): void {
  player.pause();
}

export function resume(): void {
  player.resume();
}

/** Goes to a place in what is played, in seconds. */
export function seekTo(seconds: number): void {
  player.seek(Math.round(seconds * SAMPLE_RATE_HZ));
}
