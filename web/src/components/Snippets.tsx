/** The request as code, for the clipboard. */

import { useState } from "preact/hooks";
import type { SpeechSpec } from "../services/api/speech";
import { announce } from "../store/announce";
import { apiKey } from "../store/preferences";
import { LANGUAGES, type Language, snippet } from "../store/snippets";
import { format } from "./Download";
import { Icon } from "./ui/Icon";
import { Modal } from "./ui/Modal";
import "./Snippets.css";

export function Snippets({ spec }: { spec: SpeechSpec }) {
  const [isOpen, setIsOpen] = useState(false);
  return (
    <>
      <button type="button" class="quiet small" onClick={() => setIsOpen(true)}>
        <Icon name="copy" /> Code
      </button>
      {isOpen && <SnippetsDialog spec={spec} onClose={() => setIsOpen(false)} />}
    </>
  );
}

function SnippetsDialog({ spec, onClose }: { spec: SpeechSpec; onClose: () => void }) {
  const [language, setLanguage] = useState<Language>("curl");
  const [copied, setCopied] = useState("");
  const code = snippet(language, spec, format.value, location.origin, apiKey.value !== "");
  const copy = async () => {
    await toClipboard(code);
    setCopied(language);
    announce(`${language} has been copied.`);
  };
  return (
    <Modal title="This request as code" isWide onClose={onClose}>
      <fieldset class="segments">
        <legend class="visually-hidden">Language</legend>
        {LANGUAGES.map((name) => (
          <label key={name}>
            <input
              type="radio"
              name="snippet-language"
              checked={language === name}
              onChange={() => setLanguage(name)}
            />
            <span>{name}</span>
          </label>
        ))}
      </fieldset>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by the keyboard. */}
      <section class="snippet" tabIndex={0} aria-label={`Code in ${language}`}>
        <pre>
          <code>{code}</code>
        </pre>
      </section>
      <div class="row">
        <button type="button" class="primary" onClick={() => void copy()}>
          <Icon name={copied === language ? "check" : "copy"} /> {copied === language ? "Copied" : "Copy"}
        </button>
        {apiKey.value && (
          <p class="muted small-text">The key is taken from the environment variable SONORANT_API_KEY.</p>
        )}
      </div>
    </Modal>
  );
}

/** Also on pages that came by plain HTTP, where browsers have no clipboard for scripts. */
async function toClipboard(text: string): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  // Within the dialog: outside of it nothing can be selected while it is open.
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
