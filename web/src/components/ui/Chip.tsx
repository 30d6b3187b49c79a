/** A word about a state, in its colour. */

import type { ComponentChildren } from "preact";
import "./Chip.css";

export type Tone = "plain" | "good" | "busy" | "warn" | "bad";

export function Chip({ tone = "plain", children }: { tone?: Tone; children: ComponentChildren }) {
  return <span class={`chip ${tone}`}>{children}</span>;
}
