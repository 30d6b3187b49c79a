/** A label, its control, and a hint or what is wrong with the value. */

import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import "./Field.css";

interface Props {
  label: ComponentChildren;
  hint?: ComponentChildren;
  error?: string;
  /** Gets the id for the control, and that of what describes it. */
  children: (id: string, describedBy: string | undefined) => ComponentChildren;
}

export function Field({ label, hint, error, children }: Props) {
  const id = useId();
  const described = error || hint ? `${id}-hint` : undefined;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children(id, described)}
      {described && (
        <p id={described} class={error ? "hint bad" : "hint"}>
          {error || hint}
        </p>
      )}
    </div>
  );
}
