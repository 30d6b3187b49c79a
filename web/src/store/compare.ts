/** The same text from two to four voices, side by side; blind, if wanted, until one has been voted for. */

import { computed, effect, signal } from "@preact/signals";
import { recall, remember } from "../services/preferences";
import { announce } from "./announce";
import { defaultModel } from "./catalogue";
import * as draft from "./draft";
import { save } from "./history";
import { listen, play, playback, stop, takeOf } from "./speech";
import type { Take } from "./take";

export const MOST_LANES = 4;
export const LEAST_LANES = 2;

/** Who speaks in a lane. */
export interface Lane {
  /** Empty for the server's default. */
  model: string;
  /** Empty for the model's default. */
  voice: string;
}

/** A round: what was said by whom, in the order in which it is shown. */
export interface Round {
  lanes: Lane[];
  takes: Take[];
  isBlind: boolean;
  /** Which one was voted for. */
  vote: number | null;
}

/** How often a voice was heard in rounds that had a vote, and how often it was the one. */
export interface Tally {
  rounds: number;
  votes: number;
}

export const lanes = signal<Lane[]>(
  recall("lanes", [
    { model: "", voice: "" },
    { model: "", voice: "" },
  ]),
);
export const isBlind = signal(recall("blind", false));
/** Whether the next is played when one has ended. */
export const inTurn = signal(true);
export const round = signal<Round | null>(null);
export const tallies = signal<Record<string, Tally>>(recall("tallies", {}));

/** Whether names are hidden now. */
export const isHidden = computed(() => Boolean(round.value?.isBlind && round.value.vote === null));

effect(() => remember("lanes", lanes.value));
effect(() => remember("blind", isBlind.value));
effect(() => remember("tallies", tallies.value));

/** What a lane is called where names are hidden. */
export function letter(index: number): string {
  return String.fromCharCode(65 + index);
}

export function addLane(): void {
  if (lanes.peek().length < MOST_LANES) lanes.value = [...lanes.peek(), { model: "", voice: "" }];
}

export function removeLane(index: number): void {
  if (lanes.peek().length > LEAST_LANES) lanes.value = lanes.peek().filter((_, i) => i !== index);
}

export function setLane(index: number, lane: Lane): void {
  lanes.value = lanes.peek().with(index, lane);
}

/** Has all of them say the text, and plays the first. */
export async function compare(): Promise<void> {
  const input = draft.text.peek();
  if (!input.trim()) return;
  stop();
  stopComparing();
  const asked = isBlind.peek() ? shuffled(lanes.peek()) : lanes.peek();
  const seed = draft.anySeed();
  const common = { input, seed, speed: draft.speed.peek(), language: "", instructions: "", options: {} };
  const takes = asked.map(({ model, voice }) =>
    takeOf({ ...common, model: model || defaultModel.peek(), voice }),
  );
  round.value = { lanes: asked, takes, isBlind: isBlind.peek(), vote: null };
  listen(takes[0]!);
  announce(`${takes.length} voices have been asked.`);
  await Promise.all(takes.map((take) => take.run()));
  for (const take of takes) await save(take);
}

export function stopComparing(): void {
  for (const take of round.peek()?.takes ?? []) if (!take.isOver) take.stop();
  const clips = round.peek()?.takes.map((take) => take.clip) ?? [];
  const { clip } = playback.peek();
  if (clip && clips.includes(clip)) stop();
}

/** Plays a lane, from its beginning. */
export function hear(index: number): void {
  const take = round.peek()?.takes[index];
  if (take && !take.isOver) listen(take);
  else if (take) play(take.clip);
}

/** Votes for a lane, which lifts the blind. */
export function vote(index: number): void {
  const now = round.peek();
  if (!now || now.vote !== null) return;
  round.value = { ...now, vote: index };
  const counted = { ...tallies.peek() };
  now.takes.forEach((take, i) => {
    const name = nameOf(take);
    const { rounds, votes } = counted[name] ?? { rounds: 0, votes: 0 };
    counted[name] = { rounds: rounds + 1, votes: votes + (i === index ? 1 : 0) };
  });
  tallies.value = counted;
  announce(`You voted for ${letter(index)}: ${nameOf(now.takes[index]!)}.`);
}

export function forgetTallies(): void {
  tallies.value = {};
}

/** Voice and model of a take, as the server says. */
export function nameOf(take: Take): string {
  const { voice, model } = take.spoken.peek();
  return `${voice || take.spec.voice || "default"} · ${model || take.spec.model}`;
}

function shuffled<T>(all: T[]): T[] {
  const result = [...all];
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [result[i], result[j]] = [result[j]!, result[i]!];
  }
  return result;
}

// Goes on to the next one, once, when one has been heard to its end.
let ended: unknown = null;
effect(() => {
  const { clip, state } = playback.value;
  if (state !== "ended" || clip === ended) {
    if (state !== "ended") ended = null;
    return;
  }
  ended = clip;
  const takes = round.peek()?.takes ?? [];
  const at = takes.findIndex((take) => take.clip === clip);
  const next = takes[at + 1];
  const wasHeard = clip !== null && playback.peek().position >= clip.length;
  if (at >= 0 && next && wasHeard && inTurn.peek()) queueMicrotask(() => hear(at + 1));
});
