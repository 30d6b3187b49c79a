/** Models and their voices: which there are, how they stand on each worker, loading and unloading. */

import { eventsOf } from "./events";
import { ApiFailure, failureFrom, json, request } from "./http";

export interface Voice {
  id: string;
  name: string;
  /** BCP 47 tag. */
  language: string;
  gender: string | null;
  /** Whether somebody's recording is imitated. */
  isCustom?: boolean;
}

export type ModelState = "absent" | "cached" | "downloading" | "loading" | "ready" | "failed" | "unknown";

/** How a model stands on a worker. */
export interface Standing {
  state: ModelState;
  active?: number;
  downloaded_bytes?: number;
  download_bytes?: number;
  memory_bytes?: number | null;
  reason?: string;
}

/** JSON Schema of an option, as far as engines use it. */
export interface OptionSchema {
  type?: "number" | "integer" | "boolean" | "string";
  description?: string;
  title?: string;
  default?: unknown;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  enum?: string[];
}

export interface Model {
  id: string;
  servable: boolean;
  engine: string | null;
  /** Why it cannot be served. */
  reason: string | null;
  gated?: boolean | string | null;
  downloads?: number | null;
  likes?: number | null;
  license?: string | null;
  parameters?: number | null;
  languages?: string[];
  trending_score?: number | null;
  download_bytes: number | null;
  workers: Record<string, Standing>;
  sample_rate_hz: number | null;
  speeds: [number, number] | null;
  voices: Voice[];
  options: Record<string, OptionSchema>;
  takes_instructions: boolean;
  cloning: string | null;
}

export interface Listing {
  models: Model[];
  /** Models of the workers that the Hub's list does not name. */
  local: Model[];
  /** Whether the Hub has been asked in vain since this list. */
  stale: boolean;
}

export interface LoadProgress {
  stage: "downloading" | "loading" | "warming_up" | "ready" | "unknown";
  model: string;
  worker: string;
  downloaded_bytes: number;
  download_bytes: number;
}

const path = (id: string) => `/api/models/${id.split("/").map(encodeURIComponent).join("/")}`;

/** @throws ApiFailure */
export function listModels(search: string, signal?: AbortSignal): Promise<Listing> {
  const query = search ? `&search=${encodeURIComponent(search)}` : "";
  return json(`/api/models?limit=50${query}`, signal ? { signal } : {});
}

/** The caller's own voices. @throws ApiFailure */
export async function listCustomVoices(): Promise<Voice[]> {
  const { voices } = await json<{ voices: (Voice & { model: string | null })[] }>("/v1/audio/voices");
  return voices.filter((voice) => !voice.model).map((voice) => ({ ...voice, isCustom: true }));
}

/**
 * Brings a model into memory; gives its progress. Not to wait for the end does not undo the load.
 *
 * @throws ApiFailure if it cannot be had.
 */
export async function* loadModel(id: string, signal: AbortSignal): AsyncGenerator<LoadProgress> {
  const answer = await request(`${path(id)}/load`, { method: "POST", signal });
  let stage: LoadProgress["stage"] = "unknown";
  for await (const { event, data } of eventsOf(answer.body!)) {
    if (event === "error") throw failureFrom(JSON.parse(data), 0);
    const progress: LoadProgress = JSON.parse(data);
    stage = progress.stage;
    yield progress;
  }
  if (stage !== "ready") throw new ApiFailure("The stream ended before the model was ready.", 0, "cut");
}

/** Takes a model out of the memory of every worker. @throws ApiFailure */
export async function unloadModel(id: string): Promise<void> {
  await request(`${path(id)}/unload`, { method: "POST" });
}
