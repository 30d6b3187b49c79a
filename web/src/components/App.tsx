/** The page: header, the screen that the address names, dialogs, and the one live region. */

import { useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { announcement } from "../store/announce";
import { dialog, theme } from "../store/preferences";
import { type Screen, screen } from "../store/route";
import { CompareScreen } from "./CompareScreen";
import { Header } from "./Header";
import { HelpDialog } from "./HelpDialog";
import { HistoryScreen } from "./HistoryScreen";
import { KeyDialog } from "./KeyDialog";
import { ModelsScreen } from "./ModelsScreen";
import { SpeakScreen } from "./SpeakScreen";
import { StatusScreen } from "./StatusScreen";
import { listenToKeys } from "./shortcuts";
import "./App.css";

const SCREENS: Record<Screen, { title: string; Screen: () => preact.JSX.Element }> = {
  speak: { title: "Speak", Screen: SpeakScreen },
  compare: { title: "Compare", Screen: CompareScreen },
  history: { title: "History", Screen: HistoryScreen },
  models: { title: "Models", Screen: ModelsScreen },
  status: { title: "Status", Screen: StatusScreen },
};

export function App() {
  const { title, Screen } = SCREENS[screen.value];
  const main = useRef<HTMLElement>(null);
  const isFirst = useRef(true);
  useEffect(listenToKeys, []);
  useSignalEffect(() => {
    if (theme.value === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme.value;
  });
  useEffect(() => {
    document.title = `${title} · Sonorant`;
    // A new screen is a new page: a screen reader begins at its top.
    if (!isFirst.current) main.current?.focus({ preventScroll: true });
    isFirst.current = false;
  }, [title]);
  return (
    <>
      <button type="button" class="skip" onClick={() => main.current?.focus()}>
        Skip to the content
      </button>
      <Header />
      <main id="main" ref={main} tabIndex={-1} class={`screen ${screen.value}`}>
        <Screen />
      </main>
      {dialog.value === "key" && <KeyDialog />}
      {dialog.value === "help" && <HelpDialog />}
      <div class="visually-hidden" role="status" aria-live="polite">
        {announcement}
      </div>
    </>
  );
}
