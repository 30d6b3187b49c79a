/** A dialog over the page: the browser's own, which keeps the focus inside and gives it back. */

import type { ComponentChildren } from "preact";
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { announcement } from "../../store/announce";
import { Icon } from "./Icon";
import "./Modal.css";

interface Props {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  isWide?: boolean;
}

export function Modal({ title, onClose, children, isWide = false }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  // What was announced before it opened is not said again, unless it happens again.
  const before = useRef<string | null>(announcement.peek());
  if (announcement.value !== before.current) before.current = null;
  // At once, on either way: what is pressed next must find the focus where it belongs.
  useLayoutEffect(() => {
    const opener = document.activeElement;
    const element = dialog.current!;
    element.showModal();
    return () => {
      // Closed first, which nobody need be told of: what is outside of an open dialog takes no focus.
      element.addEventListener("close", (event) => event.stopImmediatePropagation(), { capture: true });
      element.close();
      if (opener instanceof HTMLElement) opener.focus();
    };
  }, []);
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: a click beside it is a second way; Escape is the keyboard's.
    <dialog
      ref={dialog}
      class={isWide ? "modal wide" : "modal"}
      aria-labelledby={id}
      onClose={onClose}
      onClick={(event) => event.target === dialog.current && onClose()}
    >
      <div class="modal-body">
        <header class="row">
          <h2 id={id}>{title}</h2>
          <button type="button" class="quiet icon push" aria-label="Close" onClick={onClose}>
            <Icon name="close" />
          </button>
        </header>
        {children}
      </div>
      {/* The page's own live region is out of reach as long as a dialog is open. */}
      <div class="visually-hidden" role="status" aria-live="polite">
        {before.current === null ? announcement.value : ""}
      </div>
    </dialog>
  );
}
