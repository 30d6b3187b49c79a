/** What was spoken, in this browser's IndexedDB. */

import { type DBSchema, type IDBPDatabase, openDB } from "idb";
import type { Mark, SpeechSpec } from "../api/speech";
import type { Figures } from "../figures";

/** A take that is over. */
export interface Saved {
  id: string;
  createdAt: number;
  spec: SpeechSpec;
  /** What came of it: `done`, `stopped`, or `failed`, with what there is of the audio. */
  outcome: "done" | "stopped" | "failed";
  /** Why it failed. */
  reason: string;
  worker: string;
  figures: Figures;
  marks: Mark[];
  durationS: number;
  sampleRateHz: number;
  /** s16 in the byte order of this machine. */
  samples: Int16Array;
}

interface Schema extends DBSchema {
  takes: { key: string; value: Saved; indexes: { createdAt: number } };
}

/** Most takes that are kept; the oldest go first. */
export const MOST_KEPT = 200;

let opened: Promise<IDBPDatabase<Schema>> | null = null;

function database(): Promise<IDBPDatabase<Schema>> {
  opened ??= openDB<Schema>("sonorant", 1, {
    upgrade(db) {
      db.createObjectStore("takes", { keyPath: "id" }).createIndex("createdAt", "createdAt");
    },
  });
  return opened;
}

/** Every take, the newest first. @throws DOMException where the browser keeps nothing. */
export async function all(): Promise<Saved[]> {
  return (await (await database()).getAllFromIndex("takes", "createdAt")).reverse();
}

/**
 * Keeps a take; makes room by letting the oldest go.
 *
 * @throws DOMException where the browser keeps nothing, or not as much as this one.
 */
export async function keep(take: Saved): Promise<void> {
  const db = await database();
  for (;;) {
    try {
      await db.put("takes", take);
      break;
    } catch (error) {
      const isFull = error instanceof DOMException && error.name === "QuotaExceededError";
      if (!isFull || !(await forgetOldest(db))) throw error;
    }
  }
  while ((await db.count("takes")) > MOST_KEPT) await forgetOldest(db);
}

export async function forget(id: string): Promise<void> {
  await (await database()).delete("takes", id);
}

export async function forgetAll(): Promise<void> {
  await (await database()).clear("takes");
}

async function forgetOldest(db: IDBPDatabase<Schema>): Promise<boolean> {
  const key = (await db.getAllKeysFromIndex("takes", "createdAt", null, 1))[0];
  if (key) await db.delete("takes", key);
  return key !== undefined;
}
