/** What was spoken, in this browser's IndexedDB. */

import { type DBSchema, type IDBPDatabase, openDB } from "idb";
import type { Mark, SpeechSpec } from "../api/speech";
import type { Figures } from "../figures";

/** A take that is over, but for its audio. */
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
}

interface Schema extends DBSchema {
  takes: { key: string; value: Saved; indexes: { createdAt: number } };
  /** By the take's id, s16 in the byte order of this machine: apart, for a list of takes needs none of it. */
  audio: { key: string; value: Int16Array };
}

/** Most takes that are kept; the oldest go first. */
export const MOST_KEPT = 200;

const BYTES_PER_SAMPLE = 2;

let opened: Promise<IDBPDatabase<Schema>> | null = null;

function database(): Promise<IDBPDatabase<Schema>> {
  opened ??= new Promise((resolve, reject) => {
    openDB<Schema>("sonorant", 2, {
      async upgrade(db, from, _to, transaction) {
        const audio = db.createObjectStore("audio");
        if (from < 1) {
          db.createObjectStore("takes", { keyPath: "id" }).createIndex("createdAt", "createdAt");
          return;
        }
        // Version 1 had the samples in the take.
        let cursor = await transaction.objectStore("takes").openCursor();
        for (; cursor; cursor = await cursor.continue()) {
          const { samples, ...take } = cursor.value as Saved & { samples: Int16Array };
          await audio.put(samples, take.id);
          await cursor.update(take);
        }
      },
      // A page of an earlier version does not let go by itself, and this one would wait for it without a word.
      blocked: () => reject(new Error("an earlier Sonorant is open in another tab; close it, then reload")),
      blocking(_current, _blocked, event) {
        (event.target as IDBDatabase).close();
        opened = null;
      },
    }).then(resolve, reject);
  });
  return opened;
}

/** Every take, the newest first. @throws DOMException where the browser keeps nothing. */
export async function all(): Promise<Saved[]> {
  return (await (await database()).getAllFromIndex("takes", "createdAt")).reverse();
}

/** The audio of a take; undefined if it is not kept. */
export async function samplesOf(id: string): Promise<Int16Array | undefined> {
  return (await database()).get("audio", id);
}

/**
 * Keeps a take; makes room by letting the oldest go, but of no more bytes than this one has: what does not fit then
 * never will, and shall not cost the rest.
 *
 * @returns the ids of those that went.
 * @throws DOMException where the browser keeps nothing, or not as much as this one.
 */
export async function keep(take: Saved, samples: Int16Array): Promise<string[]> {
  const db = await database();
  const gone: string[] = [];
  for (let freed = 0; ; ) {
    try {
      await put(db, take, samples);
      break;
    } catch (error) {
      const isFull = error instanceof DOMException && error.name === "QuotaExceededError";
      const oldest = isFull && freed < BYTES_PER_SAMPLE * samples.length && (await forgetOldest(db));
      if (!oldest) throw error;
      gone.push(oldest.id);
      freed += BYTES_PER_SAMPLE * Math.round(oldest.durationS * oldest.sampleRateHz);
    }
  }
  while ((await db.count("takes")) > MOST_KEPT) gone.push((await forgetOldest(db))!.id);
  return gone;
}

/** Sets what was measured of a take, if it is kept. */
export async function updateFigures(id: string, figures: Figures): Promise<void> {
  const transaction = (await database()).transaction("takes", "readwrite");
  const take = await transaction.store.get(id);
  if (take) await transaction.store.put({ ...take, figures });
  await transaction.done;
}

export async function forget(id: string): Promise<void> {
  const transaction = (await database()).transaction(["takes", "audio"], "readwrite");
  await Promise.all([
    transaction.objectStore("takes").delete(id),
    transaction.objectStore("audio").delete(id),
    transaction.done,
  ]);
}

export async function forgetAll(): Promise<void> {
  const transaction = (await database()).transaction(["takes", "audio"], "readwrite");
  await Promise.all([
    transaction.objectStore("takes").clear(),
    transaction.objectStore("audio").clear(),
    transaction.done,
  ]);
}

async function put(db: IDBPDatabase<Schema>, take: Saved, samples: Int16Array): Promise<void> {
  const transaction = db.transaction(["takes", "audio"], "readwrite");
  await Promise.all([
    transaction.objectStore("audio").put(samples, take.id),
    transaction.objectStore("takes").put(take),
    transaction.done,
  ]);
}

async function forgetOldest(db: IDBPDatabase<Schema>): Promise<Saved | undefined> {
  const [oldest] = await db.getAllFromIndex("takes", "createdAt", null, 1);
  if (oldest) await forget(oldest.id);
  return oldest;
}
