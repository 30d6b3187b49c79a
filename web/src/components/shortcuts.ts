/** The keys that work everywhere; `HelpDialog` lists them. */

import { signal } from "@preact/signals";
import { recall, remember } from "../services/preferences";
import { compare } from "../store/compare";
import { text } from "../store/draft";
import { dialog } from "../store/preferences";
import { go, SCREENS, screen, wanted } from "../store/route";
import { pause, playback, prepare, resume, speak, stop } from "../store/speech";

/** Whether single keys work; those who speak to their computer may want them off. */
export const hasSingleKeys = signal(recall("single-keys", true));

export function setSingleKeys(isOn: boolean): void {
  hasSingleKeys.value = isOn;
  remember("single-keys", isOn);
}

/** Moves the focus to the element with this id on the speak screen, which may have to be drawn first: `App` does it. */
function reach(id: string, isPressed = false): void {
  wanted.value = { id, isPressed };
  if (screen.peek() !== "speak") go("speak");
}

const SINGLE: Record<string, () => void> = {
  "?": () => {
    dialog.value = "help";
  },
  e: () => reach("text"),
  m: () => reach("model", true),
  v: () => reach("voice", true),
  k: () => (playback.peek().state === "playing" ? pause() : resume()),
  ...Object.fromEntries(SCREENS.map((name, i) => [String(i + 1), () => go(name)])),
};

function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement && target.closest("input, textarea, select, [contenteditable]") !== null
  );
}

function onKeyDown(event: KeyboardEvent): void {
  if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    const area = document.getElementById("text");
    const from = event.shiftKey && area instanceof HTMLTextAreaElement ? area.selectionStart : 0;
    if (screen.peek() === "compare") void compare();
    else if (screen.peek() === "speak") void speak(text.peek().slice(from));
  } else if (event.key === "Escape") {
    stop();
  } else if (
    hasSingleKeys.peek() &&
    !isTyping(event.target) &&
    !event.ctrlKey &&
    !event.metaKey &&
    !event.altKey
  ) {
    const act = SINGLE[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  }
}

/** Listens, until the function that it returns is called. */
export function listenToKeys(): () => void {
  const listening = new AbortController();
  const { signal } = listening;
  addEventListener("keydown", onKeyDown, { signal });
  // The loudspeaker is ready by the time that something is to be said.
  addEventListener("pointerdown", prepare, { capture: true, signal });
  addEventListener("keydown", prepare, { capture: true, signal });
  return () => listening.abort();
}
