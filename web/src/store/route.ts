/** Which screen is shown: the part of the address behind `#/`. */

import { signal } from "@preact/signals";

export const SCREENS = ["speak", "compare", "history", "models", "status"] as const;
export type Screen = (typeof SCREENS)[number];

function shown(): Screen {
  const name = location.hash.replace(/^#\//, "");
  return SCREENS.find((screen) => screen === name) ?? "speak";
}

export const screen = signal<Screen>(shown());

/** What the speak screen is to focus, and perhaps press, once it is drawn: the id of an element. */
export const wanted = signal<{ id: string; isPressed: boolean } | null>(null);

/** The address of a screen. */
export function hrefOf(name: Screen): string {
  return `#/${name}`;
}

export function go(name: Screen): void {
  location.hash = hrefOf(name);
}

addEventListener("hashchange", () => {
  screen.value = shown();
  if (screen.value !== "speak") wanted.value = null;
});
