/** The text, how much it is, and the button that has it said. */

import { useRef, useState } from "preact/hooks";
import { announce } from "../store/announce";
import { estimate, numChars, text } from "../store/draft";
import { playback, speak, stop, take } from "../store/speech";
import { durationText, readable } from "../store/text";
import { Icon } from "./ui/Icon";
import "./Composer.css";

export function Composer() {
  const area = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  const [isOver, setIsOver] = useState(false);
  const [complaint, setComplaint] = useState("");
  const isMade = take.value !== null && !take.value.isOver.value;
  const isHeard = playback.value.state === "playing" && playback.value.clip === take.value?.clip;

  const open = async (file: File | undefined) => {
    if (!file) return;
    try {
      text.value = readable(file.name, await file.text());
      setComplaint("");
      announce(`${file.name} has been opened.`);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      setComplaint(reason);
      announce(reason);
    }
  };
  const drop = (event: DragEvent) => {
    setIsOver(false);
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    void open(event.dataTransfer.files[0]);
  };
  return (
    <section
      class={isOver ? "composer card over" : "composer card"}
      aria-label="Text"
      onDragOver={(event) => {
        event.preventDefault();
        setIsOver(true);
      }}
      onDragLeave={() => setIsOver(false)}
      onDrop={drop}
    >
      <label class="visually-hidden" for="text">
        Text to speak
      </label>
      <textarea
        id="text"
        ref={area}
        rows={7}
        spellcheck
        placeholder="Type or paste a text, or drop a .txt, .md or .html file here."
        aria-describedby="text-figures"
        value={text.value}
        onInput={(event) => {
          text.value = event.currentTarget.value;
        }}
      />
      <div class="composer-foot">
        <p id="text-figures" class="muted small-text numbers">
          {numChars.value.toLocaleString("en")} characters
          {numChars.value > 0 && ` · about ${durationText(estimate.value)}`}
        </p>
        <input
          ref={picker}
          type="file"
          hidden
          accept=".txt,.md,.markdown,.html,.htm,.xhtml,text/plain,text/markdown,text/html"
          onChange={(event) => {
            void open(event.currentTarget.files?.[0]);
            event.currentTarget.value = "";
          }}
        />
        <button type="button" class="quiet small" onClick={() => picker.current!.click()}>
          <Icon name="file" /> Open a file
        </button>
        <button
          type="button"
          class="quiet small"
          disabled={!text.value}
          onClick={() => {
            text.value = "";
            area.current!.focus();
          }}
        >
          Clear
        </button>
        <div class="row push composer-actions">
          <button type="button" disabled={!isMade && !isHeard} onClick={stop}>
            <Icon name="stop" /> Stop <kbd>Esc</kbd>
          </button>
          <button type="button" class="primary" disabled={!text.value.trim()} onClick={() => void speak()}>
            <Icon name="play" /> Speak <kbd>Ctrl ↵</kbd>
          </button>
        </div>
      </div>
      {complaint && <p class="composer-complaint">{complaint}</p>}
    </section>
  );
}
