import "fake-indexeddb/auto";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { SpeechSpec } from "../services/api/speech";
import { cut, DONE, delta, error, events, json, serve, sse } from "../testing/server";
import { clipOf, entries, forget, forgetAll, heldClip, note, read, save, trouble } from "./history";
import { Take } from "./take";

const server = serve();

const SPEC: SpeechSpec = {
  input: "Hello.",
  model: "tts-1",
  voice: "",
  speed: 1,
  seed: 7,
  language: "",
  instructions: "",
  options: { style: "x" },
};
const MARK = { kind: "segment" as const, text_start: 0, text_end: 6, start_ms: 0, end_ms: null };
const SPOKEN = sse({ type: "speech.mark", ...MARK }, delta(1, 2));
const HEADERS = { "x-sonorant-model": "a%2Fb", "x-sonorant-voice": "Zo%C3%AB", "x-sonorant-worker": "w1" };

async function takeOf(answer: Parameters<typeof server.answers.push>[0]): Promise<Take> {
  server.answers = [answer];
  const take = new Take(SPEC);
  await take.run();
  return take;
}

async function saved(): Promise<Take> {
  const take = await takeOf(events(SPOKEN + sse(DONE), HEADERS));
  await save(take);
  return take;
}

beforeEach(async () => {
  await forgetAll();
  await read();
});
afterEach(() => {
  vi.restoreAllMocks();
});

test("a take is kept with who spoke it, so that it can be said again", async () => {
  const take = await takeOf(events(SPOKEN + sse(DONE), HEADERS));
  await save(take);
  expect(entries.value).toEqual([
    {
      id: take.id,
      createdAt: take.createdAt,
      spec: { ...SPEC, model: "a/b", voice: "Zoë" },
      outcome: "done",
      reason: "",
      worker: "w1",
      figures: take.figures.value,
      marks: [MARK],
      durationS: 2 / 24_000,
      sampleRateHz: 24_000,
    },
  ]);
  expect((await clipOf(entries.value![0]!))?.samples).toEqual(Int16Array.of(1, 2));
});

test("a take that has failed is kept with its audio and why, and one without audio is not", async () => {
  await save(await takeOf(json(400, error("invalid_value"))));
  expect(entries.value).toEqual([]);
  await save(await takeOf(cut(SPOKEN)));
  expect(entries.value).toMatchObject([{ outcome: "failed", reason: "The connection was lost." }]);
});

test("a take that is not over is not kept", async () => {
  const take = new Take(SPEC);
  take.clip.append(Int16Array.of(1));
  await save(take);
  expect(entries.value).toEqual([]);
  expect(trouble.value).toBe("");
});

test("no audio is read before it is wanted, and nothing is listed anew", async () => {
  const lists = vi.spyOn(IDBIndex.prototype, "getAll");
  const reads = vi.spyOn(IDBObjectStore.prototype, "get");
  const first = await saved();
  const second = await saved();
  await forget(first.id);
  expect(entries.value?.map(({ id }) => id)).toEqual([second.id]);
  expect(lists).not.toHaveBeenCalled();
  expect(reads).not.toHaveBeenCalled();
  await clipOf(entries.value![0]!);
  expect(reads.mock.contexts.map((store) => (store as IDBObjectStore).name)).toEqual(["audio"]);
});

test("what is played stays the same clip, whatever is kept, deleted, or looked at since", async () => {
  const first = await saved();
  const other = await saved();
  const clip = await clipOf(entries.value!.find(({ id }) => id === first.id)!);
  await forget(other.id);
  for (let i = 0; i < 10; i++) {
    await saved();
    await clipOf(entries.value![0]!);
  }
  await read();
  expect(heldClip(first.id)).toBe(clip);
  expect(await clipOf(entries.value!.find(({ id }) => id === first.id)!)).toBe(clip);
});

test("of two that want the same audio at once, both get the same clip", async () => {
  await saved();
  const [one, other] = await Promise.all([clipOf(entries.value![0]!), clipOf(entries.value![0]!)]);
  expect(one).toBe(other);
});

test("audio that is no longer there is told of", async () => {
  await saved();
  const [entry] = entries.value!;
  await forgetAll();
  expect(await clipOf(entry!)).toBeNull();
  expect(trouble.value).toContain("no longer there");
});

test("figures that come after a take is over are kept too, with few writes and no audio", async () => {
  const take = await saved();
  const writes = vi.spyOn(IDBObjectStore.prototype, "put");
  const noted = [1, 2, 3, 4].map((underruns) => {
    take.measure({ underruns });
    return note(take);
  });
  await Promise.all(noted);
  expect(entries.value).toMatchObject([{ id: take.id, figures: { underruns: 4 } }]);
  expect(writes.mock.contexts.map((store) => (store as IDBObjectStore).name)).toEqual(["takes"]);
  await read();
  expect(entries.value).toMatchObject([{ id: take.id, figures: { underruns: 4 } }]);
});

test("figures that come while a take is being kept are not lost", async () => {
  const take = await takeOf(events(SPOKEN + sse(DONE), HEADERS));
  const saving = save(take);
  take.measure({ clientTtfaMs: 120 });
  await note(take);
  await saving;
  await read();
  expect(entries.value).toMatchObject([{ figures: { clientTtfaMs: 120 } }]);
});

test("figures of a take that was deleted do not bring it back", async () => {
  const take = await saved();
  await forget(take.id);
  take.measure({ underruns: 1 });
  await note(take);
  await read();
  expect(entries.value).toEqual([]);
});
