import { expect, test } from "vitest";
import type { Mark, SpeechSpec } from "../services/api/speech";
import { type Answer, cut, DONE, delta, error, events, hang, json, serve, sse } from "../testing/server";
import { Take, type TakeOptions, type TakeState, withMark } from "./take";

const server = serve();

const SPEC: SpeechSpec = {
  input: "Hello.",
  model: "a/b",
  voice: "",
  speed: 1,
  seed: 7,
  language: "",
  instructions: "",
  options: {},
};
const SPOKEN = events(sse(delta(1, 2), delta(3), DONE), {
  "server-timing": "ttfa;dur=50",
  "x-sonorant-worker": "w1",
});

function busy(headers: Record<string, string> = { "retry-after-ms": "1" }, code = "overloaded"): Answer {
  return json(503, error(code), headers);
}

function loading(stage: string): object {
  return { stage, model: "a/b", worker: "w1", downloaded_bytes: 5, download_bytes: 10 };
}

/** Runs a take against these answers; what it went through. */
async function run(answers: Answer[], options: TakeOptions = {}, stopsIn?: TakeState, input = SPEC.input) {
  server.answers = answers;
  const take = new Take({ ...SPEC, input }, options);
  const states: TakeState[] = [];
  take.state.subscribe((state) => {
    states.push(state);
    if (state === stopsIn) queueMicrotask(() => take.stop());
  });
  await take.run();
  const { clip, failure } = take;
  expect(take.isOver.value).toBe(true);
  expect(clip.isComplete).toBe(true);
  return { take, states: states.join(" "), samples: [...clip.samples], code: failure.value?.code };
}

test("a take that goes well tells who spoke and what it took", async () => {
  const { take, states, samples, code } = await run([SPOKEN], { askedMs: performance.now() - 1000 });
  expect(states).toBe("waiting streaming done");
  expect(samples).toEqual([1, 2, 3]);
  expect(code).toBeUndefined();
  expect(take.spoken.value.worker).toBe("w1");
  expect(take.figures.value).toMatchObject({ serverTtfaMs: 40, rtf: 0.2, queueMs: 3, clientTtfaMs: null });
  expect(take.figures.value.firstChunkMs).toBeGreaterThanOrEqual(1000);
});

test("without the server's word at the end, that of the beginning stays", async () => {
  const body = sse(delta(1), { type: "speech.audio.done" });
  const { take } = await run([events(body, { "server-timing": "ttfa;dur=50" })]);
  expect(take.figures.value).toMatchObject({ serverTtfaMs: 50, rtf: null, queueMs: null });
});

test.each<[string, Answer[], string, number[], string]>([
  ["refused", [json(400, error("invalid_value"))], "waiting failed", [], "invalid_value"],
  ["refused for now without a time", [busy({})], "waiting failed", [], "overloaded"],
  ["refused for too long", [busy({ "retry-after": "61" })], "waiting failed", [], "overloaded"],
  ["refused for good with a time", [busy(undefined, "quota")], "waiting failed", [], "quota"],
  ["cut before audio", [cut(sse())], "waiting failed", [], "cut"],
  ["cut in the midst", [cut(sse(delta(1, 2)))], "waiting streaming failed", [1, 2], "cut"],
  [
    "failed in the midst",
    [events(sse(delta(1, 2), { type: "speech.audio.error", ...error("overloaded") })), SPOKEN],
    "waiting streaming failed",
    [1, 2],
    "overloaded",
  ],
])("a take that is %s has failed, and keeps its audio", async (_, answers, states, samples, code) => {
  expect(await run(answers)).toMatchObject({ states, samples, code });
});

test("a take that is refused for now asks again until it is let in", async () => {
  const { take, states, samples } = await run([busy(), busy(undefined, "draining"), SPOKEN]);
  expect(states).toBe("waiting queued waiting queued waiting streaming done");
  expect(samples).toEqual([1, 2, 3]);
  expect(take.failure.value).toBeNull();
  expect(take.againAtMs.value).toBeLessThanOrEqual(performance.now());
});

test("it gives up in the end", async () => {
  const { states, code } = await run([...new Array(6).fill(busy()), SPOKEN]);
  expect(states).toBe(`${"waiting queued ".repeat(5)}waiting failed`);
  expect(code).toBe("overloaded");
});

test("a model is loaded first, and its progress told", async () => {
  const seen: unknown[] = [];
  server.answers = [events(sse(loading("downloading"), loading("ready"))), SPOKEN];
  const take = new Take(SPEC, { loadsFirst: true });
  take.loading.subscribe((progress) => seen.push(progress?.stage));
  await take.run();
  expect(seen).toEqual([undefined, "downloading", "ready"]);
  expect(take.state.value).toBe("done");
  expect(server.asked.map(({ path }) => path)).toEqual(["/api/models/a/b/load", "/v1/audio/speech"]);
});

test.each<[string, Answer]>([
  ["is refused", json(507, error("out_of_memory"))],
  ["fails", events(`event: error\ndata: ${JSON.stringify(error("out_of_memory"))}\n\n`)],
])("a load that %s is the end of it", async (_, answer) => {
  const { states, code } = await run([answer, SPOKEN], { loadsFirst: true });
  expect([states, code]).toEqual(["waiting loading failed", "out_of_memory"]);
});

test.each<[TakeState, Answer[], TakeOptions, string, number[]]>([
  ["waiting", [hang("")], {}, "waiting stopped", []],
  ["streaming", [hang(sse(delta(1, 2)))], {}, "waiting streaming stopped", [1, 2]],
  ["queued", [busy({ "retry-after": "60" })], {}, "waiting queued stopped", []],
  ["loading", [hang(sse(loading("loading")))], { loadsFirst: true }, "waiting loading stopped", []],
])("a stop while %s ends it and keeps its audio", async (state, answers, options, states, samples) => {
  expect(await run(answers, options, state)).toMatchObject({ states, samples, code: undefined });
});

test("a stop hangs up, so that the server stops too", async () => {
  const gone = Promise.withResolvers<void>();
  await run([hang(sse(delta(1)), gone.resolve)], {}, "streaming");
  await gone.promise;
});

test("a stop after the end changes nothing", async () => {
  const { take } = await run([SPOKEN]);
  take.stop();
  expect(take.state.value).toBe("done");
});

/** A text of two pieces; the second begins at 8000 in UTF-16 units, and at 7000 in code points. */
const LONG = `${"🙂 One. ".repeat(1000)}Two.`;

function mark(text_start: number, end_ms: number | null, kind: Mark["kind"] = "segment", start_ms = 0): Mark {
  return { kind, text_start, text_end: text_start + 5, start_ms, end_ms };
}

test("a long text is asked for piece by piece, with a pause between, and its marks are those of the whole", async () => {
  const marked = events(
    sse({ type: "speech.mark", ...mark(0, 40) }, delta(...new Array(2400).fill(1)), DONE),
    { "server-timing": "ttfa;dur=50" },
  );
  const lengths: number[] = [];
  const isNear = async ({ clip }: Take) => {
    lengths.push(clip.length);
  };
  const { take, states, samples } = await run([marked, busy(), marked], { isNear }, undefined, LONG);
  expect(server.asked.map(({ body }) => JSON.parse(body).input.length)).toEqual([8000, 4, 4]);
  expect(lengths).toEqual([2400]);
  expect(states).toBe("waiting streaming queued streaming done");
  expect(samples.length).toBe(2400 + 9600 + 2400);
  expect(samples.slice(2400, 12_000).every((sample) => sample === 0)).toBe(true);
  expect(take.marks.value).toEqual([mark(0, 40), mark(7000, 540, "segment", 500)]);
});

test("a stop while a long text waits for its listener ends it", async () => {
  const isNear = (take: Take) => new Promise<void>(() => queueMicrotask(() => take.stop()));
  const { states, samples } = await run([SPOKEN, SPOKEN], { isNear }, undefined, LONG);
  expect(states).toBe("waiting streaming stopped");
  expect(samples).toEqual([1, 2, 3]);
  expect(server.asked).toHaveLength(1);
});

test("a segment is kept once, with what is known last; words are not kept", () => {
  const marks = [mark(0, null), mark(0, 9, "word"), mark(0, 900), mark(6, null)];
  expect(marks.reduce<Mark[]>(withMark, [])).toEqual([mark(0, 900), mark(6, null)]);
});

test("a take that begins within its text asks for the rest, and its marks are those of the whole", async () => {
  const marked = events(sse({ type: "speech.mark", ...mark(0, 40) }, delta(1), DONE));
  const input = "🙂 One. Two.";
  const { take } = await run([marked], { from: input.indexOf("Two") }, undefined, input);
  expect(JSON.parse(server.asked[0]!.body)).toMatchObject({ input: "Two.", seed: SPEC.seed });
  expect(take.spec.input).toBe(input);
  expect(take.marks.value).toEqual([mark(7, 40)]);
});

test("the real-time factor of a long text is that of all its audio", async () => {
  const piece = (numSamples: number, rtf?: number) =>
    events(sse(delta(...new Array(numSamples).fill(1)), { ...DONE, figures: { ...DONE.figures, rtf } }));
  const { take } = await run([piece(2400, 0.2), piece(4800, 0.5)], {}, undefined, LONG);
  expect(take.figures.value.rtf).toBeCloseTo(0.4);
  const { take: untold } = await run([piece(2400, 0.2), piece(4800)], {}, undefined, LONG);
  expect(untold.figures.value.rtf).toBeCloseTo(0.2);
});
