/**
 * `POST /v1/audio/speech`: one request, and what comes of it, as it comes.
 *
 * The PCM comes in server-sent events and not as a bare body, since only events say where in the text the audio is, and
 * why a stream breaks off, if it does.
 */

import { SampleReader } from "../player/pcm";
import { eventsOf } from "./events";
import { ApiFailure, type ErrorBody, failureFrom, request } from "./http";

/** Rate of the audio in events, in Hz. */
export const SAMPLE_RATE_HZ = 24_000;

export type OptionValue = string | number | boolean;

/** What is to be said, and how. */
export interface SpeechSpec {
  input: string;
  model: string;
  voice: string;
  speed: number;
  seed: number;
  language: string;
  instructions: string;
  options: Record<string, OptionValue>;
}

/** Where a part of the text is spoken; offsets are Unicode code points. */
export interface Mark {
  kind: "segment" | "word";
  text_start: number;
  text_end: number;
  start_ms: number;
  end_ms: number | null;
}

/** What the server measured. */
export interface ServerFigures {
  ttfa_ms: number;
  rtf: number;
  queue_ms: number;
  underruns: number;
}

export type SpeechEvent =
  | {
      kind: "begun";
      model: string;
      voice: string;
      worker: string;
      serverTtfaMs: number | null;
      ignored: string;
    }
  | { kind: "audio"; samples: Int16Array }
  | { kind: "mark"; mark: Mark }
  | { kind: "done"; figures: Partial<ServerFigures> };

type Event =
  | { type: "speech.audio.delta"; audio: string }
  | ({ type: "speech.mark" } & Mark)
  | { type: "speech.audio.done"; figures?: Partial<ServerFigures> }
  | ({ type: "speech.audio.error" } & ErrorBody);

/** The fields of a request; what is left to the server is left out. */
export function bodyOf(spec: SpeechSpec): Record<string, unknown> {
  const { options, ...fields } = spec;
  const given = Object.entries(fields).filter(([, value]) => value !== "");
  return { ...Object.fromEntries(given), ...options };
}

/**
 * Asks for speech.
 *
 * @throws ApiFailure if it is refused, breaks off, or ends without having been completed.
 */
export async function* speak(spec: SpeechSpec, signal: AbortSignal): AsyncGenerator<SpeechEvent> {
  const answer = await request("/v1/audio/speech", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...bodyOf(spec), response_format: "pcm", stream_format: "sse", verbose: true }),
    signal,
  });
  const header = (name: string) => decodeURIComponent(answer.headers.get(name) ?? "");
  const ttfa = /\bttfa;dur=([\d.]+)/.exec(answer.headers.get("server-timing") ?? "");
  yield {
    kind: "begun",
    model: header("x-sonorant-model"),
    voice: header("x-sonorant-voice"),
    worker: header("x-sonorant-worker"),
    ignored: header("x-sonorant-ignored"),
    serverTtfaMs: ttfa ? Number(ttfa[1]) : null,
  };
  yield* speechEvents(answer.body!);
}

/**
 * Reads the events of a stream of speech.
 *
 * @throws ApiFailure if it breaks off, says that it has failed, or ends without having been completed.
 */
export async function* speechEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<SpeechEvent> {
  const pcm = new SampleReader();
  for await (const { data } of eventsOf(body)) {
    const event: Event = JSON.parse(data);
    if (event.type === "speech.audio.delta") {
      const samples = pcm.read(Uint8Array.from(atob(event.audio), (char) => char.charCodeAt(0)));
      if (samples.length) yield { kind: "audio", samples };
    } else if (event.type === "speech.mark") {
      const { type: _, ...mark } = event;
      yield { kind: "mark", mark };
    } else if (event.type === "speech.audio.error") {
      throw failureFrom(event, 0);
    } else if (event.type === "speech.audio.done") {
      yield { kind: "done", figures: event.figures ?? {} };
      return;
    }
  }
  throw new ApiFailure("The stream ended before its end.", 0, "cut");
}
