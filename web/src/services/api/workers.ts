/** The workers, as the gateway sees them. */

import { json } from "./http";
import type { Standing } from "./models";

export interface Worker {
  address: string;
  state: "up" | "starting" | "draining" | "down";
  /** Why it cannot be reached, where it is down. */
  reason?: string;
  id?: string;
  device?: { id: string; name: string; memory_total_bytes: number; memory_free_bytes: number };
  engines?: string[];
  active?: number;
  queued?: number;
  capacity?: number;
  expected_wait_s?: number;
  outstanding?: number;
  build?: string;
  models?: ({ id: string; active: number } & Standing)[];
}

export interface Workers {
  workers: Worker[];
  default_model: string;
}

/** @throws ApiFailure */
export function listWorkers(): Promise<Workers> {
  return json("/api/workers");
}
