/** Why something was refused or broke off, and what can be done. */

import type { ApiFailure } from "../services/api/http";
import { durationText } from "../store/text";
import { KeyButton, keyTrouble } from "./KeyButton";
import { Notice } from "./ui/Notice";

const TITLES: Record<string, string> = {
  unreachable: "The server cannot be reached.",
  no_worker: "No worker is there to speak.",
  overloaded: "The server is busy.",
  hub_unavailable: "The Hugging Face Hub cannot be reached.",
  model_forbidden: "This model may not be used.",
  model_not_found: "There is no such model.",
  unsupported_model: "No engine here can speak with this model.",
  load_failure: "The model's files could not be loaded.",
  out_of_memory: "There is no room for this model in memory.",
  disk_full: "There is no room for this model on the disk.",
  rate_limit_exceeded: "The limit of this key is reached.",
  unspeakable_text: "The voice cannot say this text.",
  timeout: "No audio came in time.",
};

interface Props {
  failure: ApiFailure;
  /** Audio that came before it broke off, in seconds. */
  keptS?: number;
  onRetry?: () => void;
  /** Speaks what is left of the text. */
  onGoOn?: () => void;
}

export function FailureNotice({ failure, keptS = 0, onRetry, onGoOn }: Props) {
  const isKey = failure.status === 401;
  const title = keptS
    ? `The speech broke off after ${durationText(keptS)}; what came is kept.`
    : isKey
      ? keyTrouble()
      : (TITLES[failure.code] ?? "The server refused.");
  return (
    <Notice
      tone={isKey || failure.status === 429 ? "warn" : "bad"}
      title={title}
      actions={
        <>
          {isKey && <KeyButton />}
          {onGoOn && (
            <button type="button" class="small primary" onClick={onGoOn}>
              Go on from there
            </button>
          )}
          {onRetry && (
            <button type="button" class="small" onClick={onRetry}>
              Try again
            </button>
          )}
        </>
      }
    >
      {failure.message}
      {failure.retryAfterS !== null && ` It may work in ${durationText(failure.retryAfterS)}.`}
    </Notice>
  );
}
