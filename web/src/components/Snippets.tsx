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

const REFUSED = "The browser does not let it be copied: select the code and copy it.";

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
  const [hasFailed, setHasFailed] = useState(false);
  const code = snippet(language, spec, format.value, location.origin, apiKey.value !== "");
  const copy = async () => {
    const isCopied = await toClipboard(code);
    setCopied(isCopied ? language : "");
    setHasFailed(!isCopied);
    announce(isCopied ? `${language} has been copied.` : REFUSED);
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
        {hasFailed && <p class="small-text">{REFUSED}</p>}
        {apiKey.value && (
          <p class="muted small-text">The key is taken from the environment variable SONORANT_API_KEY.</p>
        )}
      </div>
    </Modal>
  );
}

/** Whether the text is in the clipboard now; also on pages that came by plain HTTP, where scripts have none. */
async function toClipboard(text: string): Promise<boolean> {
  try {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
      return true;
    }
  } catch {
    // It may still work the old way.
  }
  const focused = document.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  // Within the dialog: outside of it nothing can be selected while it is open.
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return isCopied;
}
