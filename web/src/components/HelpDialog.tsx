/** What the keyboard can do here. */

import { dialog } from "../store/preferences";
import { hasSingleKeys, setSingleKeys } from "./shortcuts";
import { Modal } from "./ui/Modal";
import "./HelpDialog.css";

const KEYS: [string[], string][] = [
  [["Ctrl", "Enter"], "Speak the text"],
  [["Ctrl", "Shift", "Enter"], "Speak from the cursor on"],
  [["Esc"], "Stop, also the work at the server; closes a dialog"],
  [
    ["←", "→"],
    "On the waveform: 1 second back or on; with Page Up and Down 10, with Home and End all the way",
  ],
];

const SINGLE_KEYS: [string[], string][] = [
  [["K"], "Pause, or go on"],
  [["E"], "To the text"],
  [["M"], "Choose a model"],
  [["V"], "Choose a voice"],
  [["1 – 5"], "The screens, from left to right"],
  [["?"], "This help"],
];

export function HelpDialog() {
  return (
    <Modal
      title="Keyboard"
      onClose={() => {
        dialog.value = "none";
      }}
    >
      <Keys keys={KEYS} />
      <h3>Single keys, outside of text fields</h3>
      <Keys keys={SINGLE_KEYS} />
      <label class="row">
        <input
          type="checkbox"
          checked={hasSingleKeys.value}
          onChange={(event) => setSingleKeys(event.currentTarget.checked)}
        />
        Single keys are on
      </label>
      <p class="muted small-text">
        On a Mac, Ctrl may be ⌘. The API is described at <a href="/docs">/docs</a>.
      </p>
    </Modal>
  );
}

function Keys({ keys }: { keys: [string[], string][] }) {
  return (
    <dl class="keys">
      {keys.map(([names, what]) => (
        <div key={what}>
          <dt>
            {names.map((name) => (
              <kbd key={name}>{name}</kbd>
            ))}
          </dt>
          <dd>{what}</dd>
        </div>
      ))}
    </dl>
  );
}
