/** A request as code to copy; pure functions. The key is never in it: it is taken from the environment. */

import type { Format } from "../services/api/encode";
import { bodyOf, type SpeechSpec } from "../services/api/speech";

export const LANGUAGES = ["curl", "Python", "JavaScript"] as const;
export type Language = (typeof LANGUAGES)[number];

/** Fields that OpenAI's own clients know by name; the others go into the extra body. */
const OPENAI_FIELDS = new Set(["input", "model", "voice", "speed", "instructions", "response_format"]);

/**
 * Writes a request.
 *
 * @param origin Where the server is, such as `http://localhost:8000`.
 * @param hasKey Whether the server wants a key.
 */
export function snippet(
  to: Language,
  spec: SpeechSpec,
  format: Format,
  origin: string,
  hasKey: boolean,
): string {
  const body: Record<string, unknown> = { ...bodyOf(spec), response_format: format };
  const file = `speech.${format === "opus" ? "ogg" : format}`;
  if (to === "curl") return curl(body, file, origin, hasKey);
  // OpenAI's clients insist on both; its names work on every server and every model.
  const known = { ...body, model: body.model ?? "tts-1", voice: body.voice ?? "alloy" };
  const own = Object.entries(known).filter(([name]) => OPENAI_FIELDS.has(name));
  const extra = Object.entries(known).filter(([name]) => !OPENAI_FIELDS.has(name));
  return to === "Python"
    ? python(own, extra, file, origin, hasKey)
    : javascript(own, extra, file, origin, hasKey);
}

function curl(body: object, file: string, origin: string, hasKey: boolean): string {
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", `'\\''`);
  return [
    `curl ${origin}/v1/audio/speech \\`,
    ...(hasKey ? [`  -H "Authorization: Bearer $SONORANT_API_KEY" \\`] : []),
    "  -H 'Content-Type: application/json' \\",
    `  -o ${file} \\`,
    `  -d '${quoted}'`,
  ].join("\n");
}

type Fields = [string, unknown][];

function python(own: Fields, extra: Fields, file: string, origin: string, hasKey: boolean): string {
  const key = hasKey ? 'os.environ["SONORANT_API_KEY"]' : '"none"';
  const literal = (value: unknown): string => {
    if (typeof value === "boolean") return value ? "True" : "False";
    return JSON.stringify(value);
  };
  const more = extra.map(([name, value]) => `${JSON.stringify(name)}: ${literal(value)}`).join(", ");
  return [
    ...(hasKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${origin}/v1", api_key=${key})`,
    "with client.audio.speech.with_streaming_response.create(",
    ...own.map(([name, value]) => `    ${name}=${literal(value)},`),
    ...(more ? [`    extra_body={${more}},`] : []),
    ") as response:",
    `    response.stream_to_file("${file}")`,
    "",
  ].join("\n");
}

function javascript(own: Fields, extra: Fields, file: string, origin: string, hasKey: boolean): string {
  const key = hasKey ? "process.env.SONORANT_API_KEY" : '"none"';
  const fields = [...own, ...extra].map(([name, value]) => `  ${name}: ${JSON.stringify(value)},`);
  return [
    'import { createWriteStream } from "node:fs";',
    'import { Readable } from "node:stream";',
    'import { pipeline } from "node:stream/promises";',
    'import OpenAI from "openai";',
    "",
    `const client = new OpenAI({ baseURL: "${origin}/v1", apiKey: ${key} });`,
    "const response = await client.audio.speech.create({",
    ...fields,
    "});",
    `await pipeline(Readable.fromWeb(response.body), createWriteStream("${file}"));`,
    "",
  ].join("\n");
}
