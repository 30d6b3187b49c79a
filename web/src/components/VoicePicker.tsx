/** The choice of a voice: searched, by language and gender, each to be heard before. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Model, Voice } from "../services/api/models";
import { announce } from "../store/announce";
import { voicesOf } from "../store/catalogue";
import { playSample, sample, stopSample } from "../store/samples";
import { SearchField } from "./ModelList";
import { Chip } from "./ui/Chip";
import { Icon } from "./ui/Icon";
import { Modal } from "./ui/Modal";
import "./VoicePicker.css";

interface Props {
  model: Model | undefined;
  chosen: string;
  /** Empty for the model's default. */
  onPick: (id: string) => void;
  onClose: () => void;
}

export function VoicePicker({ model, chosen, onPick, onClose }: Props) {
  const typed = useSignal("");
  const language = useSignal("");
  const gender = useSignal("");
  useEffect(() => stopSample, []);
  const complaint = sample.value?.failure ?? "";
  useEffect(() => {
    if (complaint) announce(complaint);
  }, [complaint]);
  const voices = voicesOf(model);
  const wanted = typed.value.trim().toLowerCase();
  const shown = voices.filter(
    (voice) =>
      `${voice.id} ${voice.name} ${languageName(voice.language)}`.toLowerCase().includes(wanted) &&
      (!language.value || voice.language === language.value) &&
      (!gender.value || voice.gender === gender.value),
  );
  return (
    <Modal title="Choose a voice" isWide onClose={onClose}>
      <div class="row list-tools">
        <SearchField label="Search voices" value={typed.value} onInput={(value) => (typed.value = value)} />
        <Filter
          label="Language"
          value={language.value}
          values={voices.map((voice) => voice.language)}
          name={languageName}
          onChange={(value) => (language.value = value)}
        />
        <Filter
          label="Gender"
          value={gender.value}
          values={voices.map((voice) => voice.gender)}
          name={(value) => value}
          onChange={(value) => (gender.value = value)}
        />
      </div>
      <ul class="list voices" aria-label="Voices">
        <li class={chosen ? "voice-row" : "voice-row chosen"}>
          <button
            type="button"
            class="voice-name"
            aria-current={chosen ? undefined : "true"}
            onClick={() => onPick("")}
          >
            <strong>The model's default</strong>
          </button>
        </li>
        {shown.map((voice) => (
          <VoiceRow
            key={voice.id}
            voice={voice}
            model={model!}
            isChosen={voice.id === chosen}
            onPick={() => onPick(voice.id)}
          />
        ))}
      </ul>
      {!voices.length && <p class="muted">The voices of a model are known when it has been loaded once.</p>}
      {voices.length > 0 && !shown.length && <p class="muted">No voice fits all of that.</p>}
      {complaint && <p class="voice-complaint">{complaint}</p>}
    </Modal>
  );
}

interface VoiceRowProps {
  voice: Voice;
  model: Model;
  isChosen: boolean;
  onPick: () => void;
}

function VoiceRow({ voice, model, isChosen, onPick }: VoiceRowProps) {
  const isSounding = sample.value?.voice === voice.id && !sample.value.failure;
  return (
    <li class={isChosen ? "voice-row chosen" : "voice-row"} data-voice={voice.id}>
      <button type="button" class="voice-name" aria-current={isChosen ? "true" : undefined} onClick={onPick}>
        <strong>{voice.name || voice.id}</strong>
        <span class="muted small-text">
          {[languageName(voice.language), voice.gender].filter(Boolean).join(" · ")}
        </span>
      </button>
      {voice.isCustom && <Chip>Custom</Chip>}
      <button
        type="button"
        class="small quiet"
        aria-label={isSounding ? `Stop the sample of ${voice.name}` : `Hear a sample of ${voice.name}`}
        onClick={() => (isSounding ? stopSample() : void playSample(model, voice))}
      >
        <Icon name={isSounding ? "stop" : "play"} /> Sample
      </button>
    </li>
  );
}

interface FilterProps {
  label: string;
  value: string;
  values: (string | null)[];
  name: (value: string) => string;
  onChange: (value: string) => void;
}

function Filter({ label, value, values, name, onChange }: FilterProps) {
  const choices = [...new Set(values.filter((each): each is string => Boolean(each)))].sort();
  if (choices.length < 2) return null;
  return (
    <select
      class="filter"
      aria-label={label}
      value={value}
      onChange={(event) => onChange(event.currentTarget.value)}
    >
      <option value="">{label}: any</option>
      {choices.map((each) => (
        <option key={each} value={each}>
          {name(each)}
        </option>
      ))}
    </select>
  );
}

const NAMES = new Intl.DisplayNames(["en"], { type: "language" });

function languageName(tag: string): string {
  if (!tag || tag === "und") return "";
  try {
    return NAMES.of(tag) ?? tag;
  } catch {
    return tag;
  }
}
