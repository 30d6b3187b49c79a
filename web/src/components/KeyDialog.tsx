/** The API key, for servers that want one. */

import { useState } from "preact/hooks";
import { refresh, refreshVoices } from "../store/catalogue";
import { apiKey, dialog } from "../store/preferences";
import { Field } from "./ui/Field";
import { Modal } from "./ui/Modal";

export function KeyDialog() {
  const [typed, setTyped] = useState(apiKey.value);
  // What a header can carry of it.
  const isWrong = !/^[ -~]*$/.test(typed.trim());
  const close = () => {
    dialog.value = "none";
  };
  const keep = (key: string) => {
    apiKey.value = key.trim();
    close();
    void refresh();
    void refreshVoices();
  };
  return (
    <Modal title="API key" onClose={close}>
      <form
        class="modal-form"
        onSubmit={(event) => {
          event.preventDefault();
          if (!isWrong) keep(typed);
        }}
      >
        <Field
          label="Key"
          error={isWrong ? "A key has only letters, digits and signs of plain ASCII." : ""}
          hint="Kept in this browser only, and sent to this server only. Leave it empty if none is asked for."
        >
          {(id, describedBy) => (
            <input
              id={id}
              type="password"
              autocomplete="off"
              spellcheck={false}
              aria-invalid={isWrong}
              aria-describedby={describedBy}
              value={typed}
              onInput={(event) => setTyped(event.currentTarget.value)}
            />
          )}
        </Field>
        <div class="row">
          <button type="submit" class="primary">
            Keep
          </button>
          {apiKey.value && (
            <button type="button" class="danger" onClick={() => keep("")}>
              Forget it
            </button>
          )}
        </div>
      </form>
    </Modal>
  );
}
