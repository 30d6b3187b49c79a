import { beforeEach, expect, test } from "vitest";
import { ApiFailure } from "../services/api/http";
import type { Model, ModelState, Voice } from "../services/api/models";
import { type Answer, error, events, json, serve, sse } from "../testing/server";
import * as catalogue from "./catalogue";

const server = serve();

function model(id: string, states: ModelState[] = [], more: Partial<Model> = {}): Model {
  return {
    id,
    servable: true,
    engine: "tone",
    reason: null,
    download_bytes: null,
    workers: Object.fromEntries(states.map((state, i) => [`w${i}`, { state, memory_bytes: 10 }])),
    sample_rate_hz: 24_000,
    speeds: null,
    voices: [],
    options: {},
    takes_instructions: false,
    cloning: null,
    ...more,
  };
}

function voice(id: string): Voice {
  return { id, name: id, language: "en", gender: null };
}

/** A server that knows this model, or refuses to list any. */
function answer(listed: Model | null): void {
  const workers = [
    { address: "x", state: "starting" },
    { address: "y", state: "up" },
  ];
  const listing = listed
    ? json(200, { models: [listed], local: [], stale: false })
    : json(500, error("internal"));
  server.answerTo = ({ path }) =>
    path === "/api/workers" ? json(200, { workers, default_model: "a/b" }) : listing;
}

beforeEach(() => {
  server.answerTo = () => undefined;
  catalogue.listing.value = null;
  catalogue.fleet.value = null;
  catalogue.trouble.value = null;
  catalogue.loads.value = {};
});

test.each<[ModelState[], ModelState]>([
  [[], "absent"],
  [["cached", "ready", "downloading"], "ready"],
  [["failed", "absent"], "failed"],
  [["failed", "cached"], "cached"],
  [["loading", "downloading"], "loading"],
])("a model that is %j on the workers is %s", (states, best) => {
  expect(catalogue.stateOf(model("a/b", states))).toBe(best);
});

test("its memory is that of all workers", () => {
  expect(catalogue.memoryOf(model("a/b", ["ready", "ready"]))).toBe(20);
  expect(catalogue.memoryOf(model("a/b"))).toBe(0);
});

test("models that stand best come first, and those that cannot be served last", () => {
  expect(catalogue.models.value).toEqual([]);
  catalogue.listing.value = {
    local: [model("cached", ["cached"]), model("ready", ["ready"])],
    models: [model("no", ["ready"], { servable: false }), model("first"), model("second")],
    stale: false,
  };
  expect(catalogue.models.value.map(({ id }) => id)).toEqual(["ready", "cached", "first", "second", "no"]);
  expect(catalogue.modelOf("second")?.id).toBe("second");
  expect(catalogue.modelOf("third")).toBeUndefined();
});

test("how a model stands is what the workers said last", () => {
  catalogue.listing.value = { local: [], models: [model("a/b", ["cached", "ready"])], stale: false };
  catalogue.fleet.value = {
    workers: [
      { address: "x", state: "up", id: "w1", models: [{ id: "a/b", state: "failed", active: 0 }] },
      { address: "y", state: "up", id: "w2", models: [{ id: "c/d", state: "ready", active: 0 }] },
      { address: "z", state: "down" },
    ],
    default_model: "a/b",
  };
  const { workers } = catalogue.modelOf("a/b")!;
  expect(Object.entries(workers).map(([id, { state }]) => [id, state])).toEqual([
    ["w0", "cached"],
    ["w1", "failed"],
  ]);
});

test("the caller's voices are for models that imitate", () => {
  catalogue.customVoices.value = [voice("mine")];
  const ids = (of?: Model) => catalogue.voicesOf(of).map(({ id }) => id);
  expect(ids(model("a/b", [], { voices: [voice("own")] }))).toEqual(["own"]);
  expect(ids(model("a/b", [], { voices: [voice("own")], cloning: "clip" }))).toEqual(["own", "mine"]);
  expect(ids()).toEqual([]);
});

test("a refresh tells of models and workers", async () => {
  expect(catalogue.hasWorker.value).toBeNull();
  answer(model("a/b"));
  await catalogue.refresh();
  expect(catalogue.models.value.map(({ id }) => id)).toEqual(["a/b"]);
  expect([catalogue.hasWorker.value, catalogue.defaultModel.value]).toEqual([true, "a/b"]);
});

test("a refresh that fails keeps what was known, until one succeeds", async () => {
  answer(model("a/b"));
  await catalogue.refresh();
  answer(null);
  await catalogue.refresh();
  expect(catalogue.trouble.value?.code).toBe("internal");
  expect(catalogue.listing.value).not.toBeNull();
  answer(model("a/b"));
  await catalogue.refresh();
  expect(catalogue.trouble.value).toBeNull();
});

test("of two refreshes at once, the later counts", async () => {
  answer(model("early"));
  const early = catalogue.refresh();
  answer(model("late"));
  await Promise.all([early, catalogue.refresh()]);
  expect(catalogue.models.value.map(({ id }) => id)).toEqual(["late"]);
  expect(catalogue.trouble.value).toBeNull();
});

test("voices that cannot be had are none", async () => {
  server.answerTo = () => json(401, error("invalid_api_key"));
  await catalogue.refreshVoices();
  expect(catalogue.customVoices.value).toEqual([]);
});

/** A server that answers a load or unload so; the refresh that follows may reach it in any later test. */
function answerLoad(answer: Answer): void {
  server.answerTo = ({ method }) => (method === "POST" ? answer : undefined);
}

test("a load is shown while it goes on, and is gone when the model is ready", async () => {
  const seen: unknown[] = [];
  const stop = catalogue.loads.subscribe((loads) => seen.push(loads["a/b"]?.progress?.stage));
  answerLoad(events(sse({ stage: "loading" }, { stage: "ready" })));
  await catalogue.load("a/b");
  stop();
  expect(seen).toEqual([undefined, undefined, "loading", "ready", undefined]);
});

test.each([
  ["load", catalogue.load],
  ["unload", catalogue.unload],
])("why it did not %s is shown", async (_, act) => {
  answerLoad(json(507, error("out_of_memory")));
  await act("a/b");
  expect(catalogue.loads.value["a/b"]?.failure?.code).toBe("out_of_memory");
});

test("a model that a search has found is known when the search is over", async () => {
  answer(model("found/by-search", ["ready"]));
  await catalogue.refresh();
  answer(model("a/b"));
  await catalogue.refresh();
  expect(catalogue.models.value.map(({ id }) => id)).toEqual(["a/b"]);
  expect(catalogue.modelOf("found/by-search")).toMatchObject({ engine: "tone", workers: {} });
});

test("a model that is not listed is looked up once, and again if that failed", async () => {
  answer(null);
  await catalogue.lookUp("kept/model");
  expect(catalogue.modelOf("kept/model")).toBeUndefined();
  answer(model("kept/model"));
  await catalogue.lookUp("kept/model");
  await catalogue.lookUp("kept/model");
  expect(catalogue.modelOf("kept/model")).toBeDefined();
  expect(server.asked.filter(({ path }) => path.includes("search=kept%2Fmodel"))).toHaveLength(2);
});

test("a failed load is forgotten when the model has become ready, a failed unload is not", () => {
  const standing = (state: ModelState) => ({
    workers: [{ address: "x", state: "up" as const, id: "w", models: [{ id: "a/b", active: 0, state }] }],
    default_model: "a/b",
  });
  const failed = { "a/b": { progress: null, failure: new ApiFailure("It cannot.", 500, "internal") } };
  catalogue.fleet.value = standing("failed");
  catalogue.loads.value = failed;
  catalogue.fleet.value = standing("ready");
  expect(catalogue.loads.value).toEqual({});
  catalogue.loads.value = failed;
  catalogue.fleet.value = standing("ready");
  expect(catalogue.loads.value).toEqual(failed);
});
