/** What the user has settled for this browser: the API key, light or dark, the shortcuts' help. */

import { effect, signal } from "@preact/signals";
import { credentials } from "../services/api/http";
import { recall, remember } from "../services/preferences";

export type Theme = "system" | "light" | "dark";

/** Kept in this browser only, and sent to this server only. */
export const apiKey = signal(recall("key", ""));
export const theme = signal<Theme>(recall("theme", "system"));

effect(() => {
  credentials.key = apiKey.value;
  remember("key", apiKey.value);
});

// Here, and not in a component: what is drawn first already has its colours.
effect(() => {
  remember("theme", theme.value);
  if (typeof document === "undefined") return;
  if (theme.value === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
});

export type Dialog = "none" | "key" | "help";

export const dialog = signal<Dialog>("none");
