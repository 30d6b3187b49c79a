/** What a screen reader is told of what happens: one sentence at a time, for the one live region. */

import { signal } from "@preact/signals";

export const announcement = signal("");

export function announce(sentence: string): void {
  // An equal text would be no change, and not be read: a space that nobody hears tells the second from the first.
  announcement.value = sentence === announcement.peek() ? `${sentence}\u00a0` : sentence;
}
