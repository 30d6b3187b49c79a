/** A sentence in a voice, to hear it before it is chosen; kept nowhere. */

import { effect, signal } from "@preact/signals";
import type { Model, Voice } from "../services/api/models";
import { listen, playback, run, stop, takeOf } from "./speech";
import type { Take } from "./take";

const SENTENCES: Record<string, string> = {
  ar: "مرحبًا، هكذا يبدو صوتي.",
  de: "Guten Tag, so klinge ich.",
  en: "Hello, this is what I sound like.",
  es: "Hola, así es como sueno.",
  fr: "Bonjour, voici comment je parle.",
  hi: "नमस्ते, मेरी आवाज़ ऐसी है।",
  it: "Ciao, la mia voce è così.",
  ja: "こんにちは。私の声はこんな感じです。",
  ko: "안녕하세요, 제 목소리는 이렇습니다.",
  nl: "Hallo, zo klink ik.",
  pl: "Dzień dobry, tak brzmię.",
  pt: "Olá, é assim que eu falo.",
  ru: "Здравствуйте, так звучит мой голос.",
  tr: "Merhaba, sesim böyle.",
  uk: "Добрий день, так звучить мій голос.",
  zh: "你好，这就是我的声音。",
};

/** The voice that is being heard, or why it could not be. */
export const sample = signal<{ voice: string; failure: string } | null>(null);

let sounding: Take | null = null;

/** Has a voice say a sentence in its own language. */
export async function playSample(model: Model, voice: Voice): Promise<void> {
  stopSample();
  stop();
  const input = SENTENCES[voice.language.split("-")[0]!.toLowerCase()] ?? SENTENCES.en!;
  const spec = {
    model: model.id,
    voice: voice.id,
    speed: 1,
    seed: 1,
    language: "",
    instructions: "",
    options: {},
  };
  const mine = takeOf({ ...spec, input });
  sounding = mine;
  sample.value = { voice: voice.id, failure: "" };
  listen(mine);
  await run(mine);
  if (sounding !== mine) return;
  const failure = mine.failure.peek()?.message ?? "";
  if (failure) sample.value = { voice: voice.id, failure };
}

export function stopSample(): void {
  if (!sounding) return;
  const { clip } = sounding;
  sounding.stop();
  sounding = null;
  sample.value = null;
  if (playback.peek().clip === clip) stop();
}

// Over when it has been heard, which is later than when it has come.
effect(() => {
  const { clip, state } = playback.value;
  if (state === "ended" && clip === sounding?.clip && !sample.peek()?.failure) sample.value = null;
});
