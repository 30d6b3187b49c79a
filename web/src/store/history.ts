/** What was said before, in this browser. */

import { signal } from "@preact/signals";
import * as database from "../services/history/database";
import { Clip } from "../services/player/clip";
import { announce } from "./announce";
import type { Take } from "./take";

export { MOST_KEPT, type Saved } from "../services/history/database";

/** The newest first; null while it is being read. */
export const entries = signal<database.Saved[] | null>(null);
/** Why this browser keeps nothing; empty if it does. */
export const trouble = signal("");

/** How many clips stay in memory, so that none is read again at every look. */
const MOST_CLIPS = 8;

/** The clips that were wanted last, the latest at the end. */
const recent = new Map<string, Clip>();
/** Every clip that somebody still holds: what the player plays stays the same clip, however many are looked at since. */
const held = new Map<string, WeakRef<Clip>>();

/** Takes whose figures are to be written. */
const changed = new Set<Take>();
let writing: Promise<void> | null = null;

export async function read(): Promise<void> {
  try {
    entries.value = await database.all();
    trouble.value = "";
  } catch (error) {
    entries.value = [];
    trouble.value = `This browser keeps no history: ${textOf(error)}`;
  }
}

/** The audio of an entry, if it is in memory. */
export function heldClip(id: string): Clip | null {
  return held.get(id)?.deref() ?? null;
}

/** The audio of an entry, the same clip as long as somebody holds it; null, and `trouble`, if there is none. */
export async function clipOf({ id, sampleRateHz }: database.Saved): Promise<Clip | null> {
  let clip = heldClip(id);
  if (!clip) {
    try {
      const samples = await database.samplesOf(id);
      if (!samples) throw new Error("it is no longer there.");
      clip = heldClip(id) ?? Clip.of(samples, sampleRateHz); // Another call may have been faster.
    } catch (error) {
      trouble.value = `The audio could not be read: ${textOf(error)}`;
      return null;
    }
  }
  held.set(id, new WeakRef(clip));
  recent.delete(id);
  recent.set(id, clip);
  if (recent.size > MOST_CLIPS) recent.delete(recent.keys().next().value!);
  return clip;
}

/** Keeps a take that is over, if there is something to hear in it. */
export async function save(take: Take): Promise<void> {
  const outcome = take.state.peek();
  if (!take.clip.length || (outcome !== "done" && outcome !== "stopped" && outcome !== "failed")) return;
  const spoken = take.spoken.peek();
  const saved: database.Saved = {
    id: take.id,
    createdAt: take.createdAt,
    spec: { ...take.spec, model: spoken.model || take.spec.model, voice: take.spec.voice || spoken.voice },
    outcome,
    reason: take.failure.peek()?.message ?? "",
    worker: spoken.worker,
    figures: take.figures.peek(),
    marks: take.marks.peek(),
    durationS: take.clip.durationS,
    sampleRateHz: take.clip.sampleRateHz,
  };
  try {
    drop(await database.keep(saved, take.clip.samples.slice()));
    if (entries.peek() === null || trouble.peek()) await read();
    else insert(saved);
    if (take.figures.peek() !== saved.figures) await note(take); // They came while it was being kept.
  } catch (error) {
    await read(); // Some may have gone to make room.
    trouble.value = `This could not be kept: ${textOf(error)}`;
  }
}

/** Keeps the figures of a take anew, if it is kept: some come while it is played, when it is long over. */
export function note(take: Take): Promise<void> {
  changed.add(take);
  writing ??= Promise.resolve().then(writeChanged);
  return writing;
}

/** One after the other, each with its latest figures: what changes meanwhile is written once more. */
async function writeChanged(): Promise<void> {
  for (const take of changed) {
    changed.delete(take);
    const figures = take.figures.peek();
    const kept = entries.peek();
    if (kept && !kept.some(({ id }) => id === take.id)) continue;
    try {
      await database.updateFigures(take.id, figures);
      entries.value =
        entries.peek()?.map((saved) => (saved.id === take.id ? { ...saved, figures } : saved)) ?? null;
    } catch (error) {
      trouble.value = `The figures could not be kept: ${textOf(error)}`;
    }
  }
  writing = null;
}

export async function forget(id: string): Promise<void> {
  await database.forget(id);
  drop([id]);
  announce("Deleted.");
}

export async function forgetAll(): Promise<void> {
  await database.forgetAll();
  drop([...held.keys()]);
  entries.value = [];
  announce("The history is empty.");
}

function insert(saved: database.Saved): void {
  const others = (entries.peek() ?? []).filter(({ id }) => id !== saved.id);
  entries.value = [saved, ...others].sort((a, b) => b.createdAt - a.createdAt).slice(0, database.MOST_KEPT);
}

function drop(ids: string[]): void {
  for (const id of ids) {
    recent.delete(id);
    held.delete(id);
  }
  entries.value = entries.peek()?.filter(({ id }) => !ids.includes(id)) ?? null;
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
