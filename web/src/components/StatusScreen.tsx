/** The workers: device, memory, models, streams. */

import { Fragment } from "preact";
import type { Worker } from "../services/api/workers";
import { fleet } from "../store/catalogue";
import { bytesText } from "../store/text";
import { ModelStateChip } from "./ModelRow";
import { Troubles } from "./Troubles";
import { Chip, type Tone } from "./ui/Chip";
import "./StatusScreen.css";

const TONES: Record<Worker["state"], Tone> = { up: "good", starting: "busy", draining: "warn", down: "bad" };

export function StatusScreen() {
  const workers = fleet.value?.workers ?? [];
  return (
    <>
      <header class="screen-head">
        <h1>Status</h1>
        <p>Each worker runs models on one device. The figures are a few seconds old at most.</p>
      </header>
      <Troubles />
      <ul class="workers">
        {workers.map((worker) => (
          <WorkerCard key={worker.address} worker={worker} />
        ))}
      </ul>
      {fleet.value && !workers.length && (
        <p class="muted">The gateway knows of no worker: see SONORANT_WORKERS.</p>
      )}
    </>
  );
}

function WorkerCard({ worker }: { worker: Worker }) {
  const { device, models = [] } = worker;
  return (
    <li class="worker card">
      <header class="row">
        <h2>{worker.id ?? worker.address}</h2>
        <Chip tone={TONES[worker.state]}>{worker.state}</Chip>
        <span class="muted small-text push">{worker.address}</span>
      </header>
      {device ? (
        <>
          <Memory device={device} />
          <dl class="worker-figures numbers">
            <Figure name="Speaking" value={worker.active} />
            <Figure name="Queued" value={worker.queued} />
            <Figure name="Calls from here" value={worker.outstanding} />
            <Figure name="Capacity" value={worker.capacity} />
            <Figure name="Expected wait" value={`${(worker.expected_wait_s ?? 0).toFixed(1)} s`} />
          </dl>
          <table class="worker-models">
            <caption class="visually-hidden">Models of {worker.id}</caption>
            <thead>
              <tr>
                <th scope="col">Model</th>
                <th scope="col">State</th>
                <th scope="col" class="number">
                  Speaking
                </th>
                <th scope="col" class="number">
                  Memory
                </th>
              </tr>
            </thead>
            <tbody>
              {models.map((model) => (
                <Fragment key={model.id}>
                  <tr>
                    <th scope="row">{model.id}</th>
                    <td>
                      <ModelStateChip state={model.state} />
                    </td>
                    <td class="number numbers">{model.active}</td>
                    <td class="number numbers">{model.memory_bytes ? bytesText(model.memory_bytes) : "–"}</td>
                  </tr>
                  {model.reason && (
                    <tr>
                      <td class="small-text worker-reason" colSpan={4}>
                        {model.reason}
                      </td>
                    </tr>
                  )}
                </Fragment>
              ))}
            </tbody>
          </table>
          {!models.length && <p class="muted small-text">It has no models yet.</p>}
          <p class="muted small-text worker-engines">Engines: {worker.engines?.join(", ") || "none"}</p>
        </>
      ) : (
        <>
          <p class="muted">It cannot be reached; the gateway keeps trying.</p>
          {worker.reason && <p class="small-text worker-reason">{worker.reason}</p>}
        </>
      )}
    </li>
  );
}

function Memory({ device }: { device: NonNullable<Worker["device"]> }) {
  const used = device.memory_total_bytes - device.memory_free_bytes;
  return (
    <div class="worker-memory">
      <p class="row">
        <span>{device.name}</span>
        <span class="muted small-text numbers push">
          {bytesText(used)} of {bytesText(device.memory_total_bytes)} in use
        </span>
      </p>
      <meter
        aria-label={`Memory of ${device.name}`}
        min={0}
        max={device.memory_total_bytes}
        high={0.9 * device.memory_total_bytes}
        value={used}
      />
    </div>
  );
}

function Figure({ name, value }: { name: string; value: string | number | undefined }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value ?? "–"}</dd>
    </div>
  );
}
