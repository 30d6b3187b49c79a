/** What is about to be said, and how: the fields of the speak screen. */

import { computed, effect, signal } from "@preact/signals";
import type { OptionValue, SpeechSpec } from "../services/api/speech";
import { recall, remember } from "../services/preferences";
import { defaultModel, listing, lookUp, modelOf, voicesOf } from "./catalogue";
import { countChars, estimateS } from "./text";

const FIRST_TEXT =
  "The first boats came in before dawn, and only the gulls seemed to notice. By eight the whole harbour was " +
  "awake: engines coughed, ropes slapped the quay, and somebody was already frying fish.";

interface Kept {
  text: string;
  model: string;
  voice: string;
  speed: number;
}

const kept = recall<Partial<Kept>>("draft", {});

export const text = signal(kept.text ?? FIRST_TEXT);
/** The model that was chosen; empty for the server's default. */
export const chosenModel = signal(kept.model ?? "");
/** The voice that was chosen; empty for the model's default. */
export const chosenVoice = signal(kept.voice ?? "");
export const speed = signal(kept.speed ?? 1);
/** As typed; empty for another one each time. */
export const seed = signal("");
export const language = signal("");
export const instructions = signal("");
/** What was set of the options of each model. */
export const options = signal<Record<string, Record<string, OptionValue>>>({});

export const modelId = computed(() => chosenModel.value || defaultModel.value);
export const model = computed(() => modelOf(modelId.value));
export const voices = computed(() => voicesOf(model.value));
/** The chosen voice, if the model has it. */
export const voiceId = computed(() =>
  voices.value.some((voice) => voice.id === chosenVoice.value) ? chosenVoice.value : "",
);

export const numChars = computed(() => countChars(text.value));
export const estimate = computed(() => estimateS(text.value, speed.value));

// The list has the trending models only; the chosen one may be known from an earlier visit, or from a search then.
effect(() => {
  if (listing.value && modelId.value && !model.value) void lookUp(modelId.value);
});

/** How long the draft must rest before it is kept, in ms: a long text is not written at every keystroke. */
const REST_MS = 500;

/** Texts that are longer are not kept: all pages of an address share 5 MB. */
const LONGEST_KEPT = 200_000;

let resting: ReturnType<typeof setTimeout> | undefined;

function keep(): void {
  clearTimeout(resting);
  resting = undefined;
  remember("draft", {
    text: text.peek().length > LONGEST_KEPT ? "" : text.peek(),
    model: chosenModel.peek(),
    voice: chosenVoice.peek(),
    speed: speed.peek(),
  });
}

let isFirst = true;

effect(() => {
  // What it depends on.
  void [text.value, chosenModel.value, chosenVoice.value, speed.value];
  if (isFirst) {
    isFirst = false;
    return;
  }
  clearTimeout(resting);
  resting = setTimeout(keep, REST_MS);
});

globalThis.addEventListener?.("pagehide", () => {
  if (resting !== undefined) keep();
});

/** Sets an option of the model; undefined leaves it to the model. */
export function setOption(name: string, value: OptionValue | undefined): void {
  const { [name]: _, ...others } = options.peek()[modelId.peek()] ?? {};
  const mine = value === undefined ? others : { ...others, [name]: value };
  options.value = { ...options.peek(), [modelId.peek()]: mine };
}

/** A seed that a request can be repeated with. */
export function anySeed(): number {
  return Math.floor(Math.random() * 2 ** 31);
}

/** The draft as a request. */
export function spec(input: string = text.peek()): SpeechSpec {
  const typed = seed.peek().trim();
  return {
    input,
    model: modelId.peek(),
    voice: voiceId.peek(),
    speed: speed.peek(),
    seed: /^\d{1,15}$/.test(typed) ? Number(typed) : anySeed(),
    language: language.peek().trim(),
    instructions: model.peek()?.takes_instructions ? instructions.peek().trim() : "",
    options: { ...options.peek()[modelId.peek()] },
  };
}

/** Takes over what was said before. */
export function restore(earlier: SpeechSpec): void {
  text.value = earlier.input;
  chosenModel.value = earlier.model;
  chosenVoice.value = earlier.voice;
  speed.value = earlier.speed;
  seed.value = String(earlier.seed);
  language.value = earlier.language;
  instructions.value = earlier.instructions;
  options.value = { ...options.peek(), [earlier.model]: earlier.options };
}
