/** The name, the screens, whether somebody can speak, and what is settled for this browser. */

import { fleet, hasWorker, trouble } from "../store/catalogue";
import { apiKey, dialog, type Theme, theme } from "../store/preferences";
import { hrefOf, SCREENS, screen } from "../store/route";
import { Icon, type IconName } from "./ui/Icon";
import "./Header.css";

const NAMES = { speak: "Speak", compare: "Compare", history: "History", models: "Models", status: "Status" };
const NEXT: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };
const THEME_ICONS: Record<Theme, IconName> = { system: "system", light: "sun", dark: "moon" };

export function Header() {
  return (
    <header class="header">
      <a class="brand" href={hrefOf("speak")}>
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <rect width="32" height="32" rx="8" />
          <path d="M6 16h2M11 11v10M16 6v20M21 10v12M26 14v4" />
        </svg>
        Sonorant
      </a>
      <nav aria-label="Screens">
        <ul>
          {SCREENS.map((name) => (
            <li key={name}>
              <a href={hrefOf(name)} aria-current={screen.value === name ? "page" : undefined}>
                {NAMES[name]}
              </a>
            </li>
          ))}
        </ul>
      </nav>
      <div class="header-tools">
        <Health />
        <button
          type="button"
          class="quiet icon"
          aria-label={`Colours: ${theme.value}. Change to ${NEXT[theme.value]}`}
          title={`Colours: ${theme.value}`}
          onClick={() => {
            theme.value = NEXT[theme.value];
          }}
        >
          <Icon name={THEME_ICONS[theme.value]} />
        </button>
        <button
          type="button"
          class={apiKey.value ? "quiet icon has-key" : "quiet icon"}
          aria-label={apiKey.value ? "API key: set" : "API key: none"}
          title="API key"
          onClick={() => {
            dialog.value = "key";
          }}
        >
          <Icon name="key" />
        </button>
        <button
          type="button"
          class="quiet icon"
          aria-label="Keyboard shortcuts"
          title="Keyboard shortcuts (?)"
          onClick={() => {
            dialog.value = "help";
          }}
        >
          <Icon name="help" />
        </button>
      </div>
    </header>
  );
}

function Health() {
  const [tone, text] = health();
  return (
    <a class={`health ${tone}`} href={hrefOf("status")}>
      <span class="dot" aria-hidden="true" />
      <span class="health-text">{text}</span>
    </a>
  );
}

function health(): [string, string] {
  if (trouble.value?.code === "unreachable") return ["bad", "Server unreachable"];
  const workers = fleet.value?.workers ?? [];
  if (!fleet.value) return ["unknown", "Connecting"];
  const up = workers.filter((worker) => worker.state === "up").length;
  if (!hasWorker.value)
    return [workers.some(({ state }) => state === "starting") ? "busy" : "bad", "No worker yet"];
  if (up < workers.length) return ["busy", `${up} of ${workers.length} workers`];
  return ["good", up === 1 ? "1 worker" : `${up} workers`];
}
