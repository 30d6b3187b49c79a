import "fake-indexeddb/auto";
import { beforeEach, expect, test } from "vitest";
import { all, forget, forgetAll, keep, MOST_KEPT, type Saved } from "./database";

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
    samples: Int16Array.of(1, -2, 3),
  };
}

async function ids(): Promise<string[]> {
  return (await all()).map(({ id }) => id);
}

beforeEach(forgetAll);

test("a take comes back as it was kept", async () => {
  await keep(take("a", 1));
  expect(await all()).toEqual([take("a", 1)]);
});

test("takes come newest first, whenever they were kept", async () => {
  for (const [id, createdAt] of [
    ["b", 2],
    ["c", 3],
    ["a", 1],
  ] as const)
    await keep(take(id, createdAt));
  expect(await ids()).toEqual(["c", "b", "a"]);
});

test("a take that is kept again takes the place of the earlier one", async () => {
  await keep(take("a", 1));
  await keep({ ...take("a", 1), reason: "other" });
  expect((await all()).map(({ reason }) => reason)).toEqual(["other"]);
});

test("one is forgotten, or all are", async () => {
  for (const [i, id] of ["a", "b", "c"].entries()) await keep(take(id, i));
  await forget("b");
  expect(await ids()).toEqual(["c", "a"]);
  await forgetAll();
  expect(await ids()).toEqual([]);
});

test("the oldest go where there are too many", async () => {
  for (let i = 0; i < MOST_KEPT + 2; i++) await keep(take(`t${i}`, i));
  const kept = await ids();
  expect(kept).toHaveLength(MOST_KEPT);
  expect([kept[0], kept.at(-1)]).toEqual([`t${MOST_KEPT + 1}`, "t2"]);
});
