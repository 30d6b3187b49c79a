/** Type, press Ctrl+Enter, hear it. */

import { take } from "../store/speech";
import { Composer } from "./Composer";
import { OptionsPanel } from "./OptionsPanel";
import { Stage } from "./Stage";
import { Troubles } from "./Troubles";
import "./SpeakScreen.css";

export function SpeakScreen() {
  return (
    <>
      <h1 class="visually-hidden">Speak</h1>
      <Troubles />
      <div class="speak-columns">
        <div class="speak-main">
          <Composer />
          {take.value ? <Stage key={take.value.id} take={take.value} /> : <FirstVisit />}
        </div>
        <OptionsPanel />
      </div>
    </>
  );
}

function FirstVisit() {
  return (
    <section class="first-visit card" aria-label="How to begin">
      <p>
        Press{" "}
        <span class="with-keys">
          <kbd>Ctrl</kbd> <kbd>Enter</kbd>
        </span>
        <strong class="with-touch">Speak</strong> to hear the text above. Sound begins as soon as the first
        clause is made, and everything you hear is kept in <a href="#/history">History</a>, in this browser
        only.
      </p>
      <p class="muted">
        Change the voice or the model, hear several of them side by side in <a href="#/compare">Compare</a>
        <span class="with-keys">
          , or press <kbd>?</kbd> for all that the keyboard can do
        </span>
        .
      </p>
    </section>
  );
}
