import { expect, test } from "vitest";
import { cut, DONE, delta, error, events, json, serve, sse } from "../../testing/server";
import { bodyOf, type SpeechEvent, type SpeechSpec, speak, speechEvents } from "./speech";

const server = serve();

const SPEC: SpeechSpec = {
  input: "Héllo 🙂.",
  model: "a/b",
  voice: "",
  speed: 1,
  seed: 0,
  language: "",
  instructions: "",
  options: { temperature: 0.5, denoise: false },
};
const MARK = { kind: "segment" as const, text_start: 0, text_end: 8, start_ms: 0, end_ms: null };
const BODY = sse({ type: "speech.mark", ...MARK }, delta(1, -2), { type: "speech.new" }, delta(3), DONE);

/** What comes, until it ends or fails; samples as plain numbers. */
async function gather(stream: AsyncGenerator<SpeechEvent>): Promise<unknown[]> {
  const out: unknown[] = [];
  try {
    for await (const event of stream) {
      out.push(event.kind === "audio" ? [...event.samples] : event);
    }
  } catch (failure) {
    out.push(failure);
  }
  return out;
}

function read(text: string): Promise<unknown[]> {
  return gather(speechEvents(new Response(text).body!));
}

test("a request leaves out what is left to the server, and has options beside its fields", () => {
  expect(bodyOf(SPEC)).toEqual({
    input: "Héllo 🙂.",
    model: "a/b",
    speed: 1,
    seed: 0,
    temperature: 0.5,
    denoise: false,
  });
});

test("speech is asked for in events, and comes with who speaks", async () => {
  server.answers = [
    events(BODY, {
      "server-timing": "edge, ttfa;dur=123.4",
      "x-sonorant-model": "a/b",
      "x-sonorant-voice": encodeURIComponent("Zoë"),
      "x-sonorant-worker": "w1",
      "x-sonorant-ignored": "instructions",
    }),
  ];
  expect(await gather(speak(SPEC, new AbortController().signal))).toEqual([
    { kind: "begun", model: "a/b", voice: "Zoë", worker: "w1", ignored: "instructions", serverTtfaMs: 123.4 },
    { kind: "mark", mark: MARK },
    [1, -2],
    [3],
    { kind: "done", figures: DONE.figures },
  ]);
  const { method, path, headers, body } = server.asked[0]!;
  expect([method, path, headers["content-type"]]).toEqual(["POST", "/v1/audio/speech", "application/json"]);
  expect(JSON.parse(body)).toEqual({
    ...bodyOf(SPEC),
    response_format: "pcm",
    stream_format: "sse",
    verbose: true,
  });
});

test("what the headers do not say is not known", async () => {
  server.answers = [events(sse(DONE))];
  expect((await gather(speak(SPEC, new AbortController().signal)))[0]).toEqual({
    kind: "begun",
    model: "",
    voice: "",
    worker: "",
    ignored: "",
    serverTtfaMs: null,
  });
});

test("a refusal is thrown before anything comes", async () => {
  server.answers = [json(400, error("invalid_value", "`speed` is 9.", "speed"))];
  expect(await gather(speak(SPEC, new AbortController().signal))).toMatchObject([
    { name: "ApiFailure", status: 400, code: "invalid_value", param: "speed" },
  ]);
});

test("samples that are cut in two by events are put together", async () => {
  const halves = ["AQ==", "AAL/"].map((audio) => ({ type: "speech.audio.delta", audio }));
  expect(await read(sse(...halves, { type: "speech.audio.delta", audio: "" }, DONE))).toEqual([
    [1, -254],
    { kind: "done", figures: DONE.figures },
  ]);
});

test("what comes after the end is not read, and figures may be missing", async () => {
  expect(await read(sse({ type: "speech.audio.done", usage: {} }, delta(1)))).toEqual([
    { kind: "done", figures: {} },
  ]);
});

test("an error in the stream is thrown after the audio before it", async () => {
  expect(await read(sse(delta(1), { type: "speech.audio.error", ...error("worker_lost") }))).toMatchObject([
    [1],
    { name: "ApiFailure", message: "It is worker_lost.", status: 0, code: "worker_lost" },
  ]);
});

test("a stream without its end is cut", async () => {
  const CUT = [[1], { name: "ApiFailure", status: 0, code: "cut" }];
  expect(await read(sse(delta(1)))).toMatchObject(CUT);
  server.answers = [cut(sse(delta(1)))];
  expect((await gather(speak(SPEC, new AbortController().signal))).slice(1)).toMatchObject(CUT);
});
