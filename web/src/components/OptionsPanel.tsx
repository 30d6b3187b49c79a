/** Who speaks, and how: the model, the voice, and what the model's engine lets one choose. */

import { useState } from "preact/hooks";
import type { OptionSchema } from "../services/api/models";
import type { OptionValue } from "../services/api/speech";
import { stateOf } from "../store/catalogue";
import * as draft from "../store/draft";
import { FormatSelect } from "./Download";
import { ModelPicker } from "./ModelPicker";
import { ModelStateChip } from "./ModelRow";
import { Field } from "./ui/Field";
import { Icon } from "./ui/Icon";
import { VoicePicker } from "./VoicePicker";
import "./OptionsPanel.css";

export function OptionsPanel() {
  const [picker, setPicker] = useState<"none" | "model" | "voice">("none");
  const model = draft.model.value;
  const voice = draft.voices.value.find(({ id }) => id === draft.voiceId.value);
  const close = () => setPicker("none");
  return (
    <aside class="options card" aria-label="Voice and options">
      <PickerButton
        id="model"
        label="Model"
        onClick={() => setPicker("model")}
        extra={model && <ModelStateChip state={stateOf(model)} />}
      >
        {draft.modelId.value || "No model yet"}
      </PickerButton>
      <PickerButton
        id="voice"
        label="Voice"
        onClick={() => setPicker("voice")}
        extra={voice?.language && <span class="muted small-text">{voice.language}</span>}
      >
        {voice ? voice.name || voice.id : "The model's default"}
      </PickerButton>
      <SpeedField />
      <div class="options-pair">
        <Field label="Format">{(id) => <FormatSelect id={id} />}</Field>
        <SeedField />
      </div>
      <EngineOptions />
      {picker === "model" && (
        <ModelPicker
          chosen={draft.modelId.value}
          onPick={(id) => {
            draft.chosenModel.value = id;
            close();
          }}
          onClose={close}
        />
      )}
      {picker === "voice" && (
        <VoicePicker
          model={model}
          chosen={draft.voiceId.value}
          onPick={(id) => {
            draft.chosenVoice.value = id;
            close();
          }}
          onClose={close}
        />
      )}
    </aside>
  );
}

interface PickerButtonProps {
  id: string;
  label: string;
  onClick: () => void;
  extra?: preact.ComponentChildren;
  children: preact.ComponentChildren;
}

/** A button that shows what is chosen and opens the choice. */
export function PickerButton({ id, label, onClick, extra, children }: PickerButtonProps) {
  return (
    <div class="field">
      <span class="field-label" id={`${id}-label`}>
        {label}
        {extra}
      </span>
      <button
        type="button"
        id={id}
        class="picker-button"
        aria-haspopup="dialog"
        aria-labelledby={`${id}-label ${id}`}
        onClick={onClick}
      >
        <span class="ellipsis">{children}</span>
        <Icon name="chevron" />
      </button>
    </div>
  );
}

/** Twice as fast is as far to the right as half as fast is to the left. */
const PACES = { least: Math.log2(0.25), most: Math.log2(4) };

function SpeedField() {
  const own = draft.model.value?.speeds;
  const speed = draft.speed.value;
  const isStretched = own && (speed < own[0] || speed > own[1]);
  return (
    <Field
      label={
        <>
          Speed <span class="numbers">{speed.toFixed(2)} ×</span>
        </>
      }
      hint={isStretched ? "Beyond the model's own range: stretched, at the same pitch." : undefined}
    >
      {(id, describedBy) => (
        <input
          id={id}
          type="range"
          min={PACES.least}
          max={PACES.most}
          step="any"
          aria-describedby={describedBy}
          aria-valuetext={`${speed.toFixed(2)} times`}
          value={Math.log2(speed)}
          onInput={(event) => {
            draft.speed.value = Math.round(20 * 2 ** Number(event.currentTarget.value)) / 20;
          }}
          onKeyDown={(event) => {
            const step = { ArrowRight: 0.05, ArrowUp: 0.05, ArrowLeft: -0.05, ArrowDown: -0.05 }[event.key];
            if (!step) return;
            event.preventDefault();
            draft.speed.value = Math.min(4, Math.max(0.25, Math.round(20 * (speed + step)) / 20));
          }}
          onDblClick={() => {
            draft.speed.value = 1;
          }}
        />
      )}
    </Field>
  );
}

function SeedField() {
  const isWrong = draft.seed.value.trim() !== "" && !/^\d{1,15}$/.test(draft.seed.value.trim());
  return (
    <Field label="Seed" error={isWrong ? "A whole number, or empty" : ""}>
      {(id, describedBy) => (
        <input
          id={id}
          type="text"
          inputMode="numeric"
          autocomplete="off"
          placeholder="any"
          aria-invalid={isWrong}
          aria-describedby={describedBy}
          value={draft.seed.value}
          onInput={(event) => {
            draft.seed.value = event.currentTarget.value;
          }}
        />
      )}
    </Field>
  );
}

function EngineOptions() {
  const model = draft.model.value;
  const schemas = Object.entries(model?.options ?? {});
  const set = draft.options.value[draft.modelId.value] ?? {};
  return (
    <details class="options-more">
      <summary>
        More options
        {Object.keys(set).length > 0 && <span class="muted"> · {Object.keys(set).length} set</span>}
      </summary>
      <div class="options-list">
        <Field label="Language of the text" hint="Such as pt-BR; empty for the voice's own.">
          {(id, describedBy) => (
            <input
              id={id}
              type="text"
              autocomplete="off"
              spellcheck={false}
              aria-describedby={describedBy}
              value={draft.language.value}
              onInput={(event) => {
                draft.language.value = event.currentTarget.value;
              }}
            />
          )}
        </Field>
        {model?.takes_instructions && (
          <Field label="Instructions" hint="How to speak, in words.">
            {(id, describedBy) => (
              <input
                id={id}
                type="text"
                aria-describedby={describedBy}
                value={draft.instructions.value}
                onInput={(event) => {
                  draft.instructions.value = event.currentTarget.value;
                }}
              />
            )}
          </Field>
        )}
        {schemas.map(([name, schema]) => (
          <EngineOption key={`${model!.id} ${name}`} name={name} schema={schema} value={set[name]} />
        ))}
        {!schemas.length && <p class="muted small-text">This model has no options of its own.</p>}
      </div>
    </details>
  );
}

interface EngineOptionProps {
  name: string;
  schema: OptionSchema;
  value: OptionValue | undefined;
}

function EngineOption({ name, schema, value }: EngineOptionProps) {
  const isNumber = schema.type === "number" || schema.type === "integer";
  const wrong = value === undefined ? "" : complaint(schema, value);
  // "100." is the number 100 on its way to 100.5: what was typed stays in the field as long as it means the value.
  const [typed, setTyped] = useState("");
  const written = meaning(typed, isNumber) === value ? typed : String(value ?? "");
  const take = (now: string) => {
    setTyped(now);
    draft.setOption(name, meaning(now, isNumber));
  };
  const hint = [schema.description, isNumber && rangeText(schema)].filter(Boolean).join("; ");
  if (schema.type === "boolean") {
    return (
      <label class="row">
        <input
          type="checkbox"
          checked={Boolean(value ?? schema.default ?? false)}
          onChange={(event) => draft.setOption(name, event.currentTarget.checked)}
        />
        <span>
          {name} {hint && <span class="muted small-text">{hint}</span>}
        </span>
      </label>
    );
  }
  return (
    <Field label={name} hint={hint} error={wrong}>
      {(id, describedBy) =>
        schema.enum ? (
          <select
            id={id}
            aria-describedby={describedBy}
            value={String(value ?? "")}
            onChange={(event) => take(event.currentTarget.value)}
          >
            <option value="">default</option>
            {schema.enum.map((each) => (
              <option key={each}>{each}</option>
            ))}
          </select>
        ) : (
          <input
            id={id}
            type="text"
            inputMode={isNumber ? "decimal" : "text"}
            autocomplete="off"
            placeholder={schema.default === undefined ? "default" : String(schema.default)}
            aria-invalid={wrong !== ""}
            aria-describedby={describedBy}
            value={written}
            onInput={(event) => take(event.currentTarget.value)}
          />
        )
      }
    </Field>
  );
}

/** The value that a text stands for; the text itself where it is no number, undefined where there is none. */
function meaning(typed: string, isNumber: boolean): OptionValue | undefined {
  if (typed === "") return undefined;
  const number = Number(typed);
  return isNumber && typed.trim() !== "" && Number.isFinite(number) ? number : typed;
}

function rangeText({ minimum, maximum, exclusiveMinimum, exclusiveMaximum }: OptionSchema): string {
  const least = minimum ?? exclusiveMinimum;
  const most = maximum ?? exclusiveMaximum;
  if (least !== undefined && most !== undefined) return `${least} to ${most}`;
  if (least !== undefined) return `${minimum === undefined ? "more than" : "at least"} ${least}`;
  return most === undefined ? "" : `${maximum === undefined ? "less than" : "at most"} ${most}`;
}

/** What is wrong with a value; the server has the last word. */
function complaint(schema: OptionSchema, value: OptionValue): string {
  if (schema.type !== "number" && schema.type !== "integer") return "";
  if (typeof value !== "number") return "It must be a number.";
  if (schema.type === "integer" && !Number.isInteger(value)) return "It must be a whole number.";
  const {
    minimum = -Infinity,
    maximum = Infinity,
    exclusiveMinimum = -Infinity,
    exclusiveMaximum = Infinity,
  } = schema;
  const fits = value >= minimum && value <= maximum && value > exclusiveMinimum && value < exclusiveMaximum;
  return fits ? "" : `It must be ${rangeText(schema)}.`;
}
