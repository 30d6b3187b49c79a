/** One model: what it is, whether it can be served and how it stands, and buttons to load and unload it. */

import type { Model, ModelState } from "../services/api/models";
import { load, loads, memoryOf, stateOf, unload } from "../store/catalogue";
import { bytesText } from "../store/text";
import { Chip, type Tone } from "./ui/Chip";
import { Icon } from "./ui/Icon";
import { Progress } from "./ui/Progress";
import "./ModelRow.css";

const STATES: Record<ModelState, [Tone, string]> = {
  absent: ["plain", "On the Hub"],
  cached: ["plain", "On disk"],
  downloading: ["busy", "Downloading"],
  loading: ["busy", "Loading"],
  ready: ["good", "Ready"],
  failed: ["bad", "Failed"],
  unknown: ["plain", "Unknown"],
};

export function ModelStateChip({ state }: { state: ModelState }) {
  const [tone, word] = STATES[state];
  return <Chip tone={tone}>{word}</Chip>;
}

interface Props {
  model: Model;
  isChosen?: boolean;
  /** What a click on its name does. */
  onPick: (id: string) => void;
  pickLabel?: string;
}

export function ModelRow({ model, isChosen = false, onPick, pickLabel = "Use" }: Props) {
  const [owner, name] = model.id.includes("/") ? model.id.split("/", 2) : ["", model.id];
  const state = stateOf(model);
  const mine = loads.value[model.id];
  const isBusy = (mine && !mine.failure) || state === "loading" || state === "downloading";
  const failed = Object.entries(model.workers).find(([, standing]) => standing.state === "failed");
  return (
    <li class={isChosen ? "model-row chosen" : "model-row"} data-model={model.id}>
      <div class="model-head">
        <button
          type="button"
          class="model-name"
          disabled={!model.servable}
          aria-current={isChosen ? "true" : undefined}
          aria-label={`${pickLabel} ${model.id}`}
          onClick={() => onPick(model.id)}
        >
          <span class="muted">{owner && `${owner}/`}</span>
          <strong>{name}</strong>
          {isChosen && <Icon name="check" />}
        </button>
        <span class="model-chips">
          {model.gated && (
            <Chip tone="warn">
              <Icon name="lock" /> Gated
            </Chip>
          )}
          {model.servable ? <ModelStateChip state={state} /> : <Chip tone="bad">Can't be served</Chip>}
        </span>
      </div>
      <p class="muted small-text model-facts">
        {factsOf(model).map((fact, i, all) => (
          <span key={fact}>{i < all.length - 1 ? `${fact} · ` : fact}</span>
        ))}
      </p>
      {!model.servable && model.reason && <p class="small-text model-reason">{model.reason}</p>}
      {failed && !mine && (
        <p class="small-text model-reason">
          {failed[0]}: {failed[1].reason || "it could not be loaded"}
        </p>
      )}
      {mine?.failure && <p class="small-text model-reason">{mine.failure.message}</p>}
      {isBusy && <LoadBar model={model} />}
      {model.servable && (
        <div class="row model-actions">
          {state !== "ready" && (
            <button type="button" class="small" disabled={isBusy} onClick={() => void load(model.id)}>
              Load
              <span class="visually-hidden"> {model.id}</span>
            </button>
          )}
          {state === "ready" && (
            <button type="button" class="small" onClick={() => void unload(model.id)}>
              Unload
              <span class="visually-hidden"> {model.id}</span>
            </button>
          )}
        </div>
      )}
    </li>
  );
}

function LoadBar({ model }: { model: Model }) {
  const progress = loads.value[model.id]?.progress;
  const standing = Object.values(model.workers).find(
    ({ state }) => state === "downloading" || state === "loading",
  );
  const stage = progress?.stage ?? standing?.state;
  const done = progress?.downloaded_bytes ?? standing?.downloaded_bytes ?? 0;
  const total = progress?.download_bytes ?? standing?.download_bytes ?? 0;
  const isDownloading = stage === "downloading" && total > 0;
  return (
    <div class="model-load">
      <Progress
        label={`Loading ${model.id}`}
        done={isDownloading ? done : 0}
        total={isDownloading ? total : 0}
      />
      <span class="muted small-text numbers">
        {isDownloading
          ? `${bytesText(done)} of ${bytesText(total)}`
          : stage === "warming_up"
            ? "Warming up"
            : "Loading"}
      </span>
    </div>
  );
}

function factsOf(model: Model): string[] {
  const memory = memoryOf(model);
  return [
    model.engine && `engine ${model.engine}`,
    model.download_bytes && `${bytesText(model.download_bytes)} to download`,
    memory && `${bytesText(memory)} in memory`,
    model.voices.length > 0 && `${model.voices.length} voice${model.voices.length === 1 ? "" : "s"}`,
    model.sample_rate_hz && `${model.sample_rate_hz / 1000} kHz`,
    model.cloning && "imitates voices",
    model.license,
    model.downloads && `${model.downloads.toLocaleString("en")} downloads`,
  ].filter((fact): fact is string => Boolean(fact));
}
