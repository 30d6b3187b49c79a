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
  /** Begins anew from this offset in the text on, where there is no sound. */
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
    if (!isSeen) box.current!.scrollTop = offsetTop - clientHeight / 3;
  }, [now]);
  const buttons = () => [...box.current!.querySelectorAll<HTMLElement>("[role=button]")];
  const canSpeakFrom = onSpeakFrom !== undefined;
  const isButton = (part: Part) => part.startMs !== null || canSpeakFrom;
  const begin = (target: EventTarget | null) => {
    const part = parts.filter(isButton)[buttons().indexOf(target as HTMLElement)];
    if (!part) return;
    if (part.startMs !== null) onSeek(part.startMs / 1000);
    else onSpeakFrom?.(part.start);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    // Ctrl+Enter speaks, here too.
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") begin(event.target);
    else if (step) buttons()[buttons().indexOf(event.target as HTMLElement) + step]?.focus();
    else return;
    event.preventDefault();
  };
  const tabStop = now < 0 ? parts.findIndex(isButton) : now;
  // A book has thousands of sentences, and the position changes 25 times a second.
  const drawn = useMemo(
    () =>
      parts.map((part, i) => {
        const words = text.slice(part.start, part.end);
        if (!isButton(part)) return <span key={part.start}>{words}</span>;
        return (
          <Fragment key={part.start}>
            {/* biome-ignore lint/a11y/useSemanticElements: a button cannot be broken over lines. */}
            <span
              role="button"
              // One stop for the Tab key; the arrows go from sentence to sentence.
              tabIndex={i === tabStop ? 0 : -1}
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
    [text, parts, now, tabStop, canSpeakFrom],
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

/** The segments that have a moment, as the server cut them, and the sentences before and behind them. */
function partsOf(text: string, units: number[], all: Span[], marks: Mark[]): Part[] {
  const starts = marks.map((mark) => units[mark.text_start] ?? text.length);
  const lastEnd = marks.length ? (units[marks.at(-1)!.text_end] ?? text.length) : 0;
  // Speech may have begun within the text; white space before its first segment goes with that.
  const headEnd = text.slice(0, starts[0] ?? 0).trim() ? starts[0]! : 0;
  // White space behind the last segment goes with it.
  const restStart = lastEnd + text.slice(lastEnd).search(/\S|$/);
  const spoken = marks.map(
    (mark, i): Part => ({
      start: i ? starts[i]! : headEnd,
      end: starts[i + 1] ?? restStart,
      startMs: mark.start_ms,
    }),
  );
  const rest = all
    .filter(({ end }) => end > restStart)
    .map(({ start, end }): Part => ({ start: Math.max(start, restStart), end, startMs: null }));
  const head = all
    .filter(({ start }) => start < headEnd)
    .map(({ start, end }): Part => ({ start, end: Math.min(end, headEnd), startMs: null }));
  return [...head, ...spoken, ...rest];
}
