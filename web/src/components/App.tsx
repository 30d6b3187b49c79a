/** The page: header, the screen that the address names, dialogs, and the one live region. */

import { useEffect, useRef } from "preact/hooks";
import { announcement } from "../store/announce";
import { dialog } from "../store/preferences";
import { type Screen, screen, wanted } from "../store/route";
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
  useEffect(() => {
    document.title = `${title} · Sonorant`;
    if (isFirst.current) {
      isFirst.current = false;
      return;
    }
    // A new screen is a new page: it is seen, and a screen reader begins, at its top.
    scrollTo(0, 0);
    if (!wanted.peek()) main.current?.focus({ preventScroll: true });
  }, [title]);
  // As of this drawing: an effect of the one before may run when the address has changed and nothing is drawn yet.
  const goal = screen.value === "speak" ? wanted.value : null;
  useEffect(() => {
    if (!goal) return;
    wanted.value = null;
    const element = document.getElementById(goal.id);
    element?.focus();
    if (goal.isPressed) element?.click();
  }, [goal]);
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
