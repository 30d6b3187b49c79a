/** A text while it is read: what is heard now is marked, and a click on a sentence begins there. */

import { Fragment } from "preact";
import { useEffect, useMemo, useRef } from "preact/hooks";
import type { Mark } from "../services/api/speech";
import { type Span, sentences, unitOffsets } from "../store/text";
import "./Transcript.css";

interface Props {
  text: string;
  marks: Mark[];
  /** Where it is played, in ms. */
  positionMs: number;
  language: string;
  /** Goes to a moment, in seconds. */
  onSeek: (seconds: number) => void;
  /** Begins anew with the text from this offset on, which has no sound yet. */
  onSpeakFrom?: (offset: number) => void;
}

interface Part extends Span {
  /** When it begins; null where that is not known yet. */
  startMs: number | null;
}

export function Transcript({ text, marks, positionMs, language, onSeek, onSpeakFrom }: Props) {
  const units = useMemo(() => unitOffsets(text), [text]);
  const all = useMemo(() => sentences(text, language), [text, language]);
  const parts = useMemo(() => partsOf(text, units, all, marks), [text, units, all, marks]);
  const now = parts.findLastIndex((part) => part.startMs !== null && part.startMs <= positionMs);
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = box.current!.querySelector<HTMLElement>("[aria-current]");
    if (!element) return;
    const { offsetTop, offsetHeight } = element;
    const { scrollTop, clientHeight } = box.current!;
    const isSeen = offsetTop >= scrollTop && offsetTop + offsetHeight <= scrollTop + clientHeight;
    if (!isSeen) box.current!.scrollTo({ top: offsetTop - clientHeight / 3, behavior: "smooth" });
  }, [now]);
  const buttons = () => [...box.current!.querySelectorAll<HTMLElement>("[role=button]")];
  const begin = (target: EventTarget | null) => {
    const part = parts[buttons().indexOf(target as HTMLElement)];
    if (!part) return;
    if (part.startMs !== null) onSeek(part.startMs / 1000);
    else onSpeakFrom?.(part.start);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") begin(event.target);
    else if (step) buttons()[buttons().indexOf(event.target as HTMLElement) + step]?.focus();
    else return;
    event.preventDefault();
  };
  const canSpeakFrom = onSpeakFrom !== undefined;
  // A book has thousands of sentences, and the position changes 25 times a second.
  const drawn = useMemo(
    () =>
      parts.map((part, i) => {
        const words = text.slice(part.start, part.end);
        if (part.startMs === null && !canSpeakFrom) return <span key={part.start}>{words}</span>;
        return (
          <Fragment key={part.start}>
            {/* biome-ignore lint/a11y/useSemanticElements: a button cannot be broken over lines. */}
            <span
              role="button"
              // One stop for the Tab key; the arrows go from sentence to sentence.
              tabIndex={i === Math.max(now, 0) ? 0 : -1}
              class={part.startMs === null ? "part unspoken" : "part"}
              aria-current={i === now ? "true" : undefined}
              title={part.startMs === null ? "Speak from here" : "Play from here"}
            >
              {words.trimEnd()}
            </span>
            {words.slice(words.trimEnd().length)}
          </Fragment>
        );
      }),
    [text, parts, now, canSpeakFrom],
  );
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset is for forms.
    <div
      class="transcript"
      ref={box}
      role="group"
      aria-label="Text, by sentence"
      onClick={(event) => begin(event.target)}
      onKeyDown={onKeyDown}
    >
      {drawn}
    </div>
  );
}

/** The segments that have a moment, as the server cut them, then the sentences of the rest. */
function partsOf(text: string, units: number[], all: Span[], marks: Mark[]): Part[] {
  const starts = marks.map((mark) => units[mark.text_start] ?? text.length);
  const lastEnd = marks.length ? (units[marks.at(-1)!.text_end] ?? text.length) : 0;
  // White space behind the last segment goes with it.
  const restStart = lastEnd + text.slice(lastEnd).search(/\S|$/);
  const spoken = marks.map(
    (mark, i): Part => ({
      start: i ? starts[i]! : 0,
      end: starts[i + 1] ?? restStart,
      startMs: mark.start_ms,
    }),
  );
  const rest = all
    .filter(({ end }) => end > restStart)
    .map(({ start, end }): Part => ({ start: Math.max(start, restStart), end, startMs: null }));
  return [...spoken, ...rest];
}
