/** Models and voices, and how they stand on the workers. */

import { batch, computed, effect, signal } from "@preact/signals";
import { ApiFailure, isAbort } from "../services/api/http";
import {
  type Listing,
  type LoadProgress,
  listCustomVoices,
  listModels,
  loadModel,
  type Model,
  type ModelState,
  unloadModel,
  type Voice,
} from "../services/api/models";
import { listWorkers, type Workers } from "../services/api/workers";
import { announce } from "./announce";

export const listing = signal<Listing | null>(null);
export const fleet = signal<Workers | null>(null);
export const customVoices = signal<Voice[]>([]);
/** Why the last try to learn of them failed; null if it did not. */
export const trouble = signal<ApiFailure | null>(null);
/** What the list of the Hub is searched for. */
export const search = signal("");
/** Loads that this page has asked for, by model. */
export const loads = signal<Record<string, { progress: LoadProgress | null; failure: ApiFailure | null }>>(
  {},
);

/** All models, those of the workers first. */
export const models = computed<Model[]>(() => {
  const found = listing.value;
  if (!found) return [];
  return [...found.local, ...found.models].map(standingNow).sort((a, b) => rank(b) - rank(a));
});

/** The model, as the workers have it by now: they are asked more often than the list of models. */
function standingNow(model: Model): Model {
  const now = (fleet.value?.workers ?? []).flatMap(({ id, models = [] }) => {
    const standing = models.find((each) => each.id === model.id);
    return id && standing ? [[id, standing] as const] : [];
  });
  return now.length ? { ...model, workers: { ...model.workers, ...Object.fromEntries(now) } } : model;
}

export const defaultModel = computed(() => fleet.value?.default_model ?? "");

/** Whether some worker takes calls; null while that is not known. */
export const hasWorker = computed(() => fleet.value?.workers.some((worker) => worker.state === "up") ?? null);

const ORDER: ModelState[] = ["absent", "unknown", "failed", "cached", "downloading", "loading", "ready"];

/** How a model stands where it stands best. */
export function stateOf(model: Model): ModelState {
  return Object.values(model.workers).reduce<ModelState>(
    (best, { state }) => (ORDER.indexOf(state) > ORDER.indexOf(best) ? state : best),
    "absent",
  );
}

/** Memory that it holds, over all workers, in bytes. */
export function memoryOf(model: Model): number {
  return Object.values(model.workers).reduce((sum, each) => sum + (each.memory_bytes ?? 0), 0);
}

/** All models that have ever been listed, by id: one that was found by a search stays known when the search is over. */
const known = signal<Record<string, Model>>({});

function keep({ models, local }: Listing): void {
  const seen = [...models, ...local].map((model) => [model.id, model] as const);
  known.value = { ...known.peek(), ...Object.fromEntries(seen) };
}

export function modelOf(id: string): Model | undefined {
  const listed = models.value.find((model) => model.id === id);
  const kept = known.value[id];
  // How it stood when it was last listed is no longer true; the workers tell how it stands.
  return listed ?? (kept && standingNow({ ...kept, workers: {} }));
}

const soughtIds = new Set<string>();

/** Asks for a model that is not in the list, such as one that was chosen at an earlier visit; once for each. */
export async function lookUp(id: string): Promise<void> {
  if (soughtIds.has(id)) return;
  soughtIds.add(id);
  try {
    keep(await listModels(id));
  } catch {
    soughtIds.delete(id); // The next list is a chance to ask again.
  }
}

/** The voices that a model can speak with: its own, then the caller's, if it imitates. */
export function voicesOf(model: Model | undefined): Voice[] {
  if (!model) return [];
  return model.cloning ? [...model.voices, ...customVoices.value] : model.voices;
}

/** What a voice is called; its id where its model is not known. */
export function voiceName(model: string, voice: string): string {
  return voicesOf(modelOf(model)).find(({ id }) => id === voice)?.name || voice;
}

function rank(model: Model): number {
  return (model.servable ? 10 : 0) + ORDER.indexOf(stateOf(model));
}

let asking: AbortController | null = null;

/** Asks the server for all of it. */
export async function refresh(): Promise<void> {
  asking?.abort();
  const mine = new AbortController();
  asking = mine;
  try {
    const [found, workers] = await Promise.all([listModels(search.peek(), mine.signal), listWorkers()]);
    if (asking !== mine) return;
    batch(() => {
      keep(found);
      listing.value = found;
      fleet.value = workers;
      trouble.value = null;
    });
  } catch (error) {
    if (isAbort(error) || asking !== mine) return;
    trouble.value = failureOf(error);
    if (trouble.value.code === "unreachable") fleet.value = null;
  }
}

/** Asks for the caller's own voices; without a key, or without any, there are none. */
export async function refreshVoices(): Promise<void> {
  customVoices.value = await listCustomVoices().catch(() => []);
}

function failureOf(error: unknown): ApiFailure {
  return error instanceof ApiFailure ? error : new ApiFailure(String(error), 0, "unknown");
}

function note(id: string, progress: LoadProgress | null, failure: ApiFailure | null): void {
  loads.value = { ...loads.peek(), [id]: { progress, failure } };
}

function forget(id: string): void {
  const { [id]: _, ...others } = loads.peek();
  loads.value = others;
}

let wasReady = new Set<string>();

// A model that has become ready by another way no longer has a reason why it could not be loaded. One that was ready
// before may have failed to unload.
effect(() => {
  const standings = (fleet.value?.workers ?? []).flatMap(({ models = [] }) => models);
  const isReady = new Set(standings.filter(({ state }) => state === "ready").map(({ id }) => id));
  for (const id of isReady) if (!wasReady.has(id) && loads.peek()[id]?.failure) forget(id);
  wasReady = isReady;
});

/** Loads a model, and says how far it is. */
export async function load(id: string): Promise<void> {
  note(id, null, null);
  announce(`Loading ${id}.`);
  try {
    for await (const progress of loadModel(id, new AbortController().signal)) note(id, progress, null);
    announce(`${id} is ready.`);
    forget(id);
  } catch (error) {
    const failure = failureOf(error);
    note(id, null, failure);
    announce(`${id} could not be loaded: ${failure.message}`);
  }
  await refresh();
}

/** Takes a model out of memory. */
export async function unload(id: string): Promise<void> {
  try {
    await unloadModel(id);
    announce(`${id} has left memory.`);
  } catch (error) {
    const failure = failureOf(error);
    note(id, null, failure);
    announce(`${id} could not be unloaded: ${failure.message}`);
  }
  await refresh();
}

const PERIOD_MS = 3000;

/** How often the models are listed although nothing has changed on the workers: the Hub's list may have. */
const LISTED_EVERY = 20;

/** What there is of workers and models, in a form to be compared. */
function outline(of: Workers | null): string {
  const workers = of?.workers ?? [];
  return JSON.stringify(
    workers.map(({ id, state, models }) => [id, state, models?.map((each) => [each.id, each.state])]),
  );
}

let looks = 0;

/** Asks how the workers stand, and for the models only where that has changed: their list is long. */
async function look(): Promise<void> {
  looks += 1;
  const workers = await listWorkers().catch(() => null);
  const isNew = !workers || trouble.peek() || outline(workers) !== outline(fleet.peek());
  if (workers) fleet.value = workers;
  if (isNew || looks % LISTED_EVERY === 0) await refresh();
}

/** Keeps what is shown true, as long as somebody looks. */
export function watch(): void {
  void refresh();
  void refreshVoices();
  const lookIfSeen = () => {
    if (document.visibilityState === "visible") void look();
  };
  setInterval(lookIfSeen, PERIOD_MS);
  document.addEventListener("visibilitychange", lookIfSeen);
}
