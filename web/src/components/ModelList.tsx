/** All models, searched and filtered. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { listing, models, refresh, search } from "../store/catalogue";
import { ModelRow } from "./ModelRow";
import { Icon } from "./ui/Icon";
import { Notice } from "./ui/Notice";
import "./ModelList.css";

const PAUSE_MS = 250;

interface Props {
  chosen?: string;
  onPick: (id: string) => void;
  pickLabel?: string;
  /** Whether those that cannot be served are shown from the first, each with why. */
  showsAll?: boolean;
}

export function ModelList({ chosen = "", onPick, pickLabel, showsAll = false }: Props) {
  const onlyServable = useSignal(!showsAll);
  const typed = useSignal(search.peek());
  // The server searches the whole Hub; what is here already is found at once.
  useEffect(() => {
    const timer = setTimeout(() => {
      if (typed.value === search.peek()) return;
      search.value = typed.value;
      void refresh();
    }, PAUSE_MS);
    return () => clearTimeout(timer);
  }, [typed.value]);
  useEffect(
    () => () => {
      if (!search.peek()) return;
      search.value = "";
      void refresh();
    },
    [],
  );
  const wanted = typed.value.trim().toLowerCase();
  const shown = models.value.filter(
    (model) => (model.servable || !onlyServable.value) && model.id.toLowerCase().includes(wanted),
  );
  const hidden = models.value.length - shown.length;
  return (
    <>
      <div class="row list-tools">
        <SearchField label="Search models" value={typed.value} onInput={(value) => (typed.value = value)} />
        <label class="row small-text">
          <input
            type="checkbox"
            checked={onlyServable.value}
            onChange={(event) => {
              onlyServable.value = event.currentTarget.checked;
            }}
          />
          Only those that can be served
        </label>
      </div>
      {listing.value?.stale && (
        <Notice tone="info" title="The Hugging Face Hub cannot be reached.">
          {listing.value.models.some((model) => model.trending_score != null)
            ? "This is its last list. What the workers have on disk can be spoken with."
            : "These are the models that the workers have."}
        </Notice>
      )}
      <ul class="list" aria-label="Models">
        {shown.map((model) => (
          <ModelRow
            key={model.id}
            model={model}
            isChosen={model.id === chosen}
            onPick={onPick}
            {...(pickLabel ? { pickLabel } : {})}
          />
        ))}
      </ul>
      {listing.value === null && <p class="muted">Asking for the models …</p>}
      {listing.value !== null && !shown.length && (
        <p class="muted">
          No model here is called that.{" "}
          {hidden > 0 && onlyServable.value && "Some that cannot be served are not shown."}
        </p>
      )}
    </>
  );
}

interface SearchFieldProps {
  label: string;
  value: string;
  onInput: (value: string) => void;
}

export function SearchField({ label, value, onInput }: SearchFieldProps) {
  return (
    <div class="search-field">
      <Icon name="search" />
      <input
        type="search"
        aria-label={label}
        placeholder={label}
        autocomplete="off"
        spellcheck={false}
        value={value}
        onInput={(event) => onInput(event.currentTarget.value)}
      />
    </div>
  );
}
