/** What stands in the way of speaking at all, whatever is to be said. */

import { fleet, hasWorker, refresh, trouble } from "../store/catalogue";
import { KeyButton, keyTrouble } from "./KeyButton";
import { Notice } from "./ui/Notice";

export function Troubles() {
  const failure = trouble.value;
  const retry = (
    <button type="button" class="small" onClick={() => void refresh()}>
      Try again
    </button>
  );
  if (failure?.status === 401) {
    return (
      <Notice tone="warn" title={keyTrouble()} actions={<KeyButton />}>
        {failure.message}
      </Notice>
    );
  }
  if (failure?.code === "unreachable") {
    return (
      <Notice tone="bad" title="The server cannot be reached." actions={retry}>
        The page asks again every few seconds, and what you have typed stays.
      </Notice>
    );
  }
  if (failure) {
    return (
      <Notice tone="bad" title="The models could not be listed." actions={retry}>
        {failure.message}
      </Notice>
    );
  }
  if (fleet.value && !hasWorker.value) {
    const isStarting = fleet.value.workers.some(({ state }) => state === "starting");
    return (
      <Notice tone="warn" title={isStarting ? "A worker is starting." : "No worker is there to speak yet."}>
        {isStarting ? (
          "It loads its models; in a moment it can speak."
        ) : (
          <a href="#/status">See how they stand</a>
        )}
      </Notice>
    );
  }
  return null;
}
