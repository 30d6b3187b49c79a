/** What a screen reader is told of what happens: one sentence at a time, for the one live region. */

import { signal } from "@preact/signals";

export const announcement = signal("");

export function announce(sentence: string): void {
  announcement.value = sentence;
}
