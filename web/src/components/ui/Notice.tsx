/** Something that the user should know, and what can be done about it. */

import type { ComponentChildren } from "preact";
import { Icon } from "./Icon";
import "./Notice.css";

interface Props {
  tone: "info" | "warn" | "bad";
  title: ComponentChildren;
  children?: ComponentChildren;
  /** Buttons. */
  actions?: ComponentChildren;
}

export function Notice({ tone, title, children, actions }: Props) {
  return (
    <div class={`notice ${tone}`}>
      <Icon name={tone === "info" ? "help" : "alert"} />
      <div class="notice-text">
        <p class="notice-title">{title}</p>
        {children && <div class="notice-more">{children}</div>}
      </div>
      {actions && <div class="row">{actions}</div>}
    </div>
  );
}
