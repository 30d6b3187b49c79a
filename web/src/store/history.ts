/** What was said before, in this browser. */

import { signal } from "@preact/signals";
import * as database from "../services/history/database";
import { announce } from "./announce";
import type { Take } from "./take";

export type { Saved } from "../services/history/database";

/** The newest first; null while it is being read. */
export const entries = signal<database.Saved[] | null>(null);
/** Why this browser keeps nothing; empty if it does. */
export const trouble = signal("");

export async function read(): Promise<void> {
  try {
    entries.value = await database.all();
    trouble.value = "";
  } catch (error) {
    entries.value = [];
    trouble.value = `This browser keeps no history: ${error instanceof Error ? error.message : error}`;
  }
}

/** Keeps a take that is over, if there is something to hear in it. */
export async function save(take: Take): Promise<void> {
  const outcome = take.state.peek();
  if (!take.clip.length || (outcome !== "done" && outcome !== "stopped" && outcome !== "failed")) return;
  const spoken = take.spoken.peek();
  try {
    await database.keep({
      id: take.id,
      createdAt: take.createdAt,
      spec: { ...take.spec, model: spoken.model || take.spec.model, voice: take.spec.voice || spoken.voice },
      outcome,
      reason: take.failure.peek()?.message ?? "",
      worker: spoken.worker,
      figures: { ...take.figures.peek() },
      marks: take.marks.peek(),
      durationS: take.clip.durationS,
      sampleRateHz: take.clip.sampleRateHz,
      samples: take.clip.samples.slice(),
    });
    await read();
  } catch (error) {
    trouble.value = `This could not be kept: ${error instanceof Error ? error.message : error}`;
  }
}

export async function forget(id: string): Promise<void> {
  await database.forget(id);
  announce("Deleted.");
  await read();
}

export async function forgetAll(): Promise<void> {
  await database.forgetAll();
  announce("The history is empty.");
  await read();
}
