import "fake-indexeddb/auto";
import { deleteDB, type IDBPDatabase, openDB } from "idb";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { all, forget, forgetAll, keep, MOST_KEPT, type Saved, samplesOf, updateFigures } from "./database";

const SAMPLES = Int16Array.of(1, -2, 3);

function take(id: string, createdAt: number): Saved {
  return {
    id,
    createdAt,
    spec: {
      input: "Hello.",
      model: "a/b",
      voice: "",
      speed: 1,
      seed: 7,
      language: "",
      instructions: "",
      options: {},
    },
    outcome: "done",
    reason: "",
    worker: "w1",
    figures: {
      clientTtfaMs: 90,
      firstChunkMs: 80,
      serverTtfaMs: 50,
      rtf: 0.2,
      queueMs: null,
      underruns: 0,
    },
    marks: [],
    durationS: 3 / 24_000,
    sampleRateHz: 24_000,
  };
}

async function ids(): Promise<string[]> {
  return (await all()).map(({ id }) => id);
}

/** A disk that takes audio of so many samples in all. */
function roomFor(most: number): void {
  const put = IDBObjectStore.prototype.put;
  const disk = new Map<IDBValidKey, number>();
  const remove = IDBObjectStore.prototype.delete;
  vi.spyOn(IDBObjectStore.prototype, "put").mockImplementation(function (this: IDBObjectStore, value, key) {
    if (this.name !== "audio") return put.call(this, value);
    const used = [...disk.values()].reduce((sum, length) => sum + length, 0);
    if (used + value.length > most) throw new DOMException("It is full.", "QuotaExceededError");
    disk.set(key!, value.length);
    return put.call(this, value, key);
  });
  vi.spyOn(IDBObjectStore.prototype, "delete").mockImplementation(function (this: IDBObjectStore, key) {
    if (this.name === "audio") disk.delete(key as IDBValidKey);
    return remove.call(this, key);
  });
}

beforeEach(forgetAll);
afterEach(() => {
  vi.restoreAllMocks();
});

test("a take comes back as it was kept", async () => {
  await keep(take("a", 1), SAMPLES);
  expect(await all()).toEqual([take("a", 1)]);
  expect(await samplesOf("a")).toEqual(SAMPLES);
});

test("takes come newest first, whenever they were kept", async () => {
  for (const [id, createdAt] of [
    ["b", 2],
    ["c", 3],
    ["a", 1],
  ] as const)
    await keep(take(id, createdAt), SAMPLES);
  expect(await ids()).toEqual(["c", "b", "a"]);
});

test("a take that is kept again takes the place of the earlier one", async () => {
  await keep(take("a", 1), SAMPLES);
  await keep({ ...take("a", 1), reason: "other" }, SAMPLES);
  expect((await all()).map(({ reason }) => reason)).toEqual(["other"]);
});

test("figures that come later are those of the take, and bring none back that is not kept", async () => {
  await keep(take("a", 1), SAMPLES);
  const figures = { ...take("a", 1).figures, underruns: 2 };
  await updateFigures("a", figures);
  await updateFigures("b", figures);
  expect(await all()).toEqual([{ ...take("a", 1), figures }]);
  expect(await samplesOf("a")).toEqual(SAMPLES);
});

test("one is forgotten, or all are", async () => {
  for (const [i, id] of ["a", "b", "c"].entries()) await keep(take(id, i), SAMPLES);
  await forget("b");
  expect(await ids()).toEqual(["c", "a"]);
  expect(await samplesOf("b")).toBeUndefined();
  await forgetAll();
  expect(await ids()).toEqual([]);
  expect(await samplesOf("a")).toBeUndefined();
});

test("the oldest go where there are too many", async () => {
  for (let i = 0; i < MOST_KEPT + 2; i++) await keep(take(`t${i}`, i), SAMPLES);
  const kept = await ids();
  expect(kept).toHaveLength(MOST_KEPT);
  expect([kept[0], kept.at(-1)]).toEqual([`t${MOST_KEPT + 1}`, "t2"]);
});

test("where the disk is full, no more of the oldest go than the new one needs", async () => {
  roomFor(9);
  for (const [i, id] of ["a", "b", "c"].entries()) await keep(take(id, i), SAMPLES);
  expect(await keep(take("d", 3), new Int16Array(4))).toEqual(["a", "b"]);
  expect(await ids()).toEqual(["d", "c"]);
});

test("what can never fit costs no more of the rest than it has itself", async () => {
  roomFor(9);
  for (const [i, id] of ["a", "b", "c"].entries()) await keep(take(id, i), SAMPLES);
  vi.mocked(IDBObjectStore.prototype.put).mockImplementation(() => {
    throw new DOMException("It is full.", "QuotaExceededError");
  });
  await expect(keep(take("d", 3), new Int16Array(4))).rejects.toThrow("It is full.");
  expect(await ids()).toEqual(["c"]);
});

/** The history as the first version of it kept it. */
async function earlier(): Promise<IDBPDatabase> {
  await deleteDB("sonorant");
  const db = await openDB("sonorant", 1, {
    upgrade(db) {
      db.createObjectStore("takes", { keyPath: "id" }).createIndex("createdAt", "createdAt");
    },
  });
  for (const [i, id] of ["a", "b"].entries()) await db.put("takes", { ...take(id, i), samples: SAMPLES });
  return db;
}

test("what an earlier version has kept is there", async () => {
  (await earlier()).close();
  expect(await all()).toEqual([take("b", 1), take("a", 0)]);
  expect(await samplesOf("a")).toEqual(SAMPLES);
});

test("a page of an earlier version in another tab is told of, not waited for", async () => {
  const other = await earlier();
  await expect(all()).rejects.toThrow("close it");
  other.close();
});
