import { expect, test } from "vitest";
import { cut, error, events, json, serve, sse } from "../../testing/server";
import { type LoadProgress, listCustomVoices, listModels, loadModel, unloadModel } from "./models";

const server = serve();

function progress(stage: LoadProgress["stage"]): LoadProgress {
  return { stage, model: "a/b", worker: "w1", downloaded_bytes: 1, download_bytes: 2 };
}

/** The stages that come, and the code of the failure. */
async function load(): Promise<string[]> {
  const out: string[] = [];
  try {
    for await (const { stage } of loadModel("a/b c", new AbortController().signal)) out.push(stage);
  } catch (failure) {
    out.push((failure as { code: string }).code);
  }
  return out;
}

test("the paths keep the slash of an id, and nothing else of what paths mean", async () => {
  server.answers = [json(200, {}), json(200, {}), json(200, {})];
  await unloadModel("a/b?c");
  await listModels("");
  await listModels("x&y");
  expect(server.asked.map(({ method, path }) => `${method} ${path}`)).toEqual([
    "POST /api/models/a/b%3Fc/unload",
    "GET /api/models?limit=50",
    "GET /api/models?limit=50&search=x%26y",
  ]);
});

test("the caller's voices are those of no model", async () => {
  const voice = { id: "v", name: "V", language: "en", gender: null };
  server.answers = [
    json(200, {
      voices: [
        { ...voice, model: "a/b" },
        { ...voice, model: null },
      ],
    }),
  ];
  expect(await listCustomVoices()).toEqual([{ ...voice, model: null, isCustom: true }]);
});

test.each([
  ["tells how far it is", events(sse(progress("loading"), progress("ready"))), ["loading", "ready"]],
  [
    "fails as an event says",
    events(`${sse(progress("loading"))}event: error\ndata: ${JSON.stringify(error("out_of_memory"))}\n\n`),
    ["loading", "out_of_memory"],
  ],
  ["fails if it ends before the model is ready", events(sse(progress("loading"))), ["loading", "cut"]],
  ["fails if the connection is lost", cut(sse(progress("loading"))), ["loading", "cut"]],
  ["fails if it is refused", json(404, error("model_not_found")), ["model_not_found"]],
])("a load %s", async (_, answer, expected) => {
  server.answers = [answer];
  expect(await load()).toEqual(expected);
});
