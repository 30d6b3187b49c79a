import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, expect, test } from "vitest";
import type { SpeechSpec } from "../services/api/speech";
import { type Language, snippet } from "./snippets";

const SPEC: SpeechSpec = {
  input: `It's "5 %" of\n\\n $HOME 🙂 \`x\`.`,
  model: "a/b",
  voice: "",
  speed: 1.5,
  seed: 7,
  language: "en",
  instructions: "",
  options: { denoise: false, style: "x" },
};
const BODY = {
  input: SPEC.input,
  model: "a/b",
  speed: 1.5,
  seed: 7,
  language: "en",
  denoise: false,
  style: "x",
  response_format: "opus",
};
const ORIGIN = "http://localhost:8000";

/** Stand-ins for the programs and libraries that snippets call: they print what they are given, as JSON. */
const directory = mkdtempSync(join(tmpdir(), "snippets-"));
const FILES = {
  "bin/curl": `#!/bin/sh
exec "${process.execPath}" -p 'JSON.stringify(process.argv.slice(1))' -- "$@"`,
  "openai.py": `
import contextlib, json
class OpenAI:
    def __init__(self, **client):
        self.client = client
        self.audio = self.speech = self.with_streaming_response = self
    @contextlib.contextmanager
    def create(self, *, extra_body={}, **body):
        yield self
        print(json.dumps([self.client, body | extra_body, self.file]))
    def stream_to_file(self, file):
        self.file = file
`,
  "node_modules/openai/package.json": '{"type": "module", "main": "index.js"}',
  "node_modules/openai/index.js": `
export default class {
  constructor(client) { this.audio = this; this.speech = this; this.client = client; }
  async create(body) {
    console.log(JSON.stringify([this.client, body]));
    return new Response("sound");
  }
}`,
};
for (const [name, text] of Object.entries(FILES)) {
  mkdirSync(dirname(join(directory, name)), { recursive: true });
  writeFileSync(join(directory, name), text, { mode: 0o755 });
}
afterAll(() => rmSync(directory, { recursive: true }));

/** Runs a snippet as a user would; what it has called its library with. */
function run(language: Language, hasKey: boolean) {
  const text = snippet(language, SPEC, "opus", ORIGIN, hasKey);
  const [program, name] = {
    curl: ["sh", "main.sh"],
    Python: ["python3", "main.py"],
    JavaScript: [process.execPath, "main.mjs"],
  }[language] as [string, string];
  writeFileSync(join(directory, name), text);
  const { stdout, stderr } = spawnSync(program, [name], {
    cwd: directory,
    encoding: "utf8",
    env: { ...process.env, PATH: `${directory}/bin:${process.env.PATH}`, SONORANT_API_KEY: "sk-1" },
  });
  expect(stderr).toBe("");
  return JSON.parse(stdout);
}

test.each([true, false])("the snippet for curl sends the request (with a key: %s)", (hasKey) => {
  const args: string[] = run("curl", hasKey);
  expect(args.slice(0, hasKey ? 3 : 1)).toEqual([
    `${ORIGIN}/v1/audio/speech`,
    ...(hasKey ? ["-H", "Authorization: Bearer sk-1"] : []),
  ]);
  expect(args.slice(-6, -1)).toEqual(["-H", "Content-Type: application/json", "-o", "speech.ogg", "-d"]);
  expect(JSON.parse(args.at(-1)!)).toEqual(BODY);
});

test.each([
  ["Python", "sk-1"],
  ["Python", "none"],
  ["JavaScript", "sk-1"],
  ["JavaScript", "none"],
] as const)("the snippet for %s sends the request (with the key %s)", (language, key) => {
  const [client, body, file = "speech.ogg"] = run(language, key !== "none");
  expect(Object.values(client)).toEqual([`${ORIGIN}/v1`, key]);
  expect(body).toEqual({ ...BODY, voice: "alloy" });
  expect(file).toBe("speech.ogg");
});
