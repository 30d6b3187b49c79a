/** The same text from two to four voices, side by side; blind, if wanted, until one has been voted for. */

import { computed, effect, signal } from "@preact/signals";
import { recall, remember } from "../services/preferences";
import { announce } from "./announce";
import { defaultModel, voiceName } from "./catalogue";
import * as draft from "./draft";
import { save } from "./history";
import { listen, play, playback, run, stop, takeOf } from "./speech";
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
  /** Lets its takes be kept: in the history, they have names. */
  reveal: () => void;
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

/** Whether all have said what they have to say. */
export const isOver = computed(() => round.value?.takes.every((take) => take.isOver.value) ?? false);
/** Whether one of them may be voted for: not before all can have been heard. */
export const canVote = computed(() => isOver.value && round.value!.vote === null);
/** Whether names are hidden now. Where nothing can be heard, there is nothing to judge, and the reasons matter. */
export const isHidden = computed(() => {
  const now = round.value;
  const isMute = isOver.value && now !== null && !now.takes.some(hasAudio);
  return Boolean(now?.isBlind && now.vote === null && !isMute);
});

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
  round.peek()?.reveal();
  const asked = isBlind.peek() ? shuffled(lanes.peek()) : lanes.peek();
  const seed = draft.anySeed();
  const common = { input, seed, speed: draft.speed.peek(), language: "", instructions: "", options: {} };
  const takes = asked.map(({ model, voice }) =>
    takeOf({ ...common, model: model || defaultModel.peek(), voice }),
  );
  let reveal = () => {};
  const revealed = new Promise<void>((resolve) => {
    reveal = resolve;
  });
  round.value = { lanes: asked, takes, isBlind: isBlind.peek(), vote: null, reveal };
  if (!isBlind.peek()) reveal();
  listen(takes[0]!);
  announce(`${takes.length} voices have been asked.`);
  await Promise.all(
    takes.map(async (take, index) => {
      await run(take);
      if (take.state.peek() === "failed") announceFailure(take, index);
      await revealed;
      await save(take);
    }),
  );
}

function announceFailure(take: Take, index: number): void {
  if (round.peek()?.takes[index] !== take) return;
  const reason = isHidden.peek() ? "" : ` ${take.failure.peek()?.message}`;
  announce(`${letter(index)} has failed.${reason}`);
}

/** Plays a lane, from its beginning. */
export function hear(index: number): void {
  const take = round.peek()?.takes[index];
  if (take && !take.isOver.peek()) listen(take, false);
  else if (take) play(take.clip);
}

/** Votes for a lane, which lifts the blind. */
export function vote(index: number): void {
  const now = round.peek();
  const chosen = now?.takes[index];
  if (!chosen || !canVote.peek() || !hasAudio(chosen)) return;
  round.value = { ...now, vote: index };
  const counted = { ...tallies.peek() };
  // A voice that speaks in two lanes is judged once.
  for (const key of new Set(now.takes.filter(hasAudio).map(keyOf))) {
    const { rounds, votes } = counted[key] ?? { rounds: 0, votes: 0 };
    counted[key] = { rounds: rounds + 1, votes: votes + (key === keyOf(chosen) ? 1 : 0) };
  }
  tallies.value = counted;
  announce(`You voted for ${letter(index)}: ${nameOf(keyOf(chosen))}.`);
  now.reveal();
}

export function forgetTallies(): void {
  tallies.value = {};
}

function hasAudio(take: Take): boolean {
  return take.clip.length > 0;
}

const BETWEEN = " · ";

/** Voice and model of a take, as the server says: what votes are counted by. */
function keyOf(take: Take): string {
  const { voice, model } = take.spoken.peek();
  return `${voice || take.spec.voice || "default"}${BETWEEN}${model || take.spec.model}`;
}

/** What people call the voice that votes are counted for by this key. */
export function nameOf(key: string): string {
  const at = key.lastIndexOf(BETWEEN);
  const model = key.slice(at + BETWEEN.length);
  return `${voiceName(model, key.slice(0, at))}${BETWEEN}${model}`;
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
  const isHeardOut = clip !== null && playback.peek().position >= clip.length;
  if (at >= 0 && next && isHeardOut && inTurn.peek()) queueMicrotask(() => hear(at + 1));
});
