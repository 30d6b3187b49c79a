/** A text while it is read: what is heard now is marked, and a click on a sentence begins there. */

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
  const parts = useMemo(() => partsOf(text, marks, language), [text, marks, language]);
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
  const move = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !(event.target instanceof HTMLElement)) return;
    const buttons = [...box.current!.querySelectorAll<HTMLElement>("[role=button]")];
    const next = buttons[buttons.indexOf(event.target) + step];
    if (next) event.preventDefault();
    next?.focus();
  };
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset is for forms.
    <div class="transcript" ref={box} role="group" aria-label="Text, by sentence" onKeyDown={move}>
      {parts.map((part, i) => {
        const { startMs } = part;
        const words = text.slice(part.start, part.end);
        const begin = () => {
          if (startMs !== null) onSeek(startMs / 1000);
          else onSpeakFrom?.(part.start);
        };
        if (startMs === null && !onSpeakFrom) return <span key={part.start}>{words}</span>;
        return (
          // biome-ignore lint/a11y/useSemanticElements: a button cannot be broken over lines.
          <span
            role="button"
            // One stop for the Tab key; the arrows go from sentence to sentence.
            tabIndex={i === Math.max(now, 0) ? 0 : -1}
            key={part.start}
            class={startMs === null ? "part unspoken" : "part"}
            aria-current={i === now ? "true" : undefined}
            title={startMs === null ? "Speak from here" : "Play from here"}
            onClick={begin}
            onKeyDown={(event) => {
              if (event.key !== "Enter" && event.key !== " ") return;
              event.preventDefault();
              begin();
            }}
          >
            {words}
          </span>
        );
      })}
    </div>
  );
}

/** The segments that have a moment, as the server cut them, then the sentences of the rest. */
function partsOf(text: string, marks: Mark[], language: string): Part[] {
  const units = unitOffsets(text);
  const starts = marks.map((mark) => units[mark.text_start] ?? text.length);
  const lastEnd = marks.length ? (units[marks[marks.length - 1]!.text_end] ?? text.length) : 0;
  const rest = sentences(text.slice(lastEnd), language).map(
    ({ start, end }): Part => ({ start: start + lastEnd, end: end + lastEnd, startMs: null }),
  );
  // White space behind the last one goes with it.
  const restStart = rest.find((part) => text.slice(part.start, part.end).trim())?.start ?? text.length;
  const spoken = marks.map(
    (mark, i): Part => ({
      start: i ? starts[i]! : 0,
      end: starts[i + 1] ?? restStart,
      startMs: mark.start_ms,
    }),
  );
  return [...spoken, ...rest.filter((part) => part.start >= restStart)];
}
