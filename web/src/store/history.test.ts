import "fake-indexeddb/auto";
import { beforeEach, expect, test } from "vitest";
import type { SpeechSpec } from "../services/api/speech";
import { cut, DONE, delta, error, events, json, serve, sse } from "../testing/server";
import { entries, forgetAll, save, trouble } from "./history";
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

beforeEach(forgetAll);

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
      samples: Int16Array.of(1, 2),
    },
  ]);
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
