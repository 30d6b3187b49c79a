/** What a take is doing as long as nothing is heard of it, and the word for how it stands. */

import { useEffect, useState } from "preact/hooks";
import type { Take, TakeState } from "../store/take";
import { bytesText } from "../store/text";
import { Chip, type Tone } from "./ui/Chip";
import { Progress } from "./ui/Progress";
import "./Waiting.css";

const STAGES = {
  downloading: "Downloading the model",
  loading: "Loading the model into memory",
  warming_up: "Warming the model up",
  ready: "The model is ready",
  unknown: "Preparing the model",
};

export function Waiting({ take }: { take: Take }) {
  const state = take.state.value;
  const progress = take.loading.value;
  if (state === "loading") {
    const isDownloading = progress?.stage === "downloading" && progress.download_bytes > 0;
    const how = isDownloading
      ? ` · ${bytesText(progress.downloaded_bytes)} of ${bytesText(progress.download_bytes)}`
      : "";
    return (
      <div class="waiting">
        <p>
          {STAGES[progress?.stage ?? "unknown"]}
          {progress?.worker && <span class="muted"> on {progress.worker}</span>}
          <span class="muted numbers">{how}</span>
        </p>
        <Progress
          label={STAGES[progress?.stage ?? "unknown"]}
          done={isDownloading ? progress.downloaded_bytes : 0}
          total={isDownloading ? progress.download_bytes : 0}
        />
      </div>
    );
  }
  if (state === "queued") return <Queued take={take} />;
  if (state === "waiting") {
    return (
      <div class="waiting">
        <p>Waiting for the first audio</p>
        <Progress label="Waiting for the first audio" />
      </div>
    );
  }
  return null;
}

function Queued({ take }: { take: Take }) {
  const [leftS, setLeftS] = useState(0);
  const againAtMs = take.againAtMs.value;
  useEffect(() => {
    const count = () => setLeftS(Math.max(0, (againAtMs - performance.now()) / 1000));
    count();
    const timer = setInterval(count, 200);
    return () => clearInterval(timer);
  }, [againAtMs]);
  const isLimit = take.failure.value?.status === 429;
  return (
    <div class="waiting">
      <p>
        {isLimit ? "The limit of this key is reached" : "The server is busy"}: asking again in{" "}
        <span class="numbers">{Math.ceil(leftS)} s</span>
      </p>
      <p class="muted small-text">{take.failure.value?.message}</p>
      <Progress label="Waiting to ask again" />
    </div>
  );
}

const CHIPS: Record<string, [Tone, string]> = {
  loading: ["busy", "Loading the model"],
  waiting: ["busy", "Waiting"],
  queued: ["warn", "Queued"],
  streaming: ["busy", "Streaming"],
  done: ["good", "Complete"],
  stopped: ["plain", "Stopped"],
  failed: ["bad", "Failed"],
  partial: ["bad", "Broken off"],
};

/** How a take stands; with `isHidden` no more than that it waits, because what for may tell whose it is. */
export function stateShown(take: Take, isHidden: boolean): TakeState {
  const state = take.state.value;
  return isHidden && (state === "loading" || state === "queued") ? "waiting" : state;
}

interface ChipProps {
  take: Take;
  isPlaying?: boolean;
  isHidden?: boolean;
}

export function TakeStateChip({ take, isPlaying = false, isHidden = false }: ChipProps) {
  const state = stateShown(take, isHidden);
  const [tone, word] = CHIPS[state === "failed" && take.clip.length ? "partial" : state]!;
  return <Chip tone={tone}>{isPlaying && state === "done" ? "Playing" : word}</Chip>;
}
