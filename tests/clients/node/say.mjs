// Speaks through OpenAI's package for Node, called by `test_openai_node.py`.
//
// Its argument is JSON: `does` (a key of `DEEDS`), `url`, `body`, `out` (what was received goes there) and `first` (a file
// to touch when the first audio is here). It prints JSON.

import fs from "node:fs";
import OpenAI, { toFile } from "openai";

const { does, url, body, out, first, sample } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });

const DEEDS = {
  async whole() {
    const answer = await client.audio.speech.create(body);
    fs.writeFileSync(out, Buffer.from(await answer.arrayBuffer()));
    return { type: answer.headers.get("content-type") };
  },

  async stream() {
    const answer = await client.audio.speech.create(body);
    const received = [];
    for await (const piece of answer.body) {
      received.push(piece);
      fs.writeFileSync(first, "");
    }
    fs.writeFileSync(out, Buffer.concat(received));
    return { type: answer.headers.get("content-type") };
  },

  async events() {
    const answer = await client.audio.speech.create({ ...body, stream_format: "sse" });
    const lines = answer.body.pipeThrough(new TextDecoderStream());
    const audio = [];
    const kinds = [];
    let usage, rest = "";
    for await (const text of lines) {
      const blocks = (rest + text).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = JSON.parse(block.replace(/^data: /, ""));
        kinds.push(event.type);
        if (event.audio) audio.push(Buffer.from(event.audio, "base64"));
        if (event.audio) fs.writeFileSync(first, "");
        usage = event.usage ?? usage;
      }
    }
    fs.writeFileSync(out, Buffer.concat(audio));
    return { type: answer.headers.get("content-type"), kinds, usage, rest };
  },

  async fails() {
    try {
      await client.audio.speech.create(body);
    } catch (error) {
      const { status, code, param, type, message } = error;
      return { kind: error.constructor.name, status, code, param, type, message, request: error.requestID };
    }
  },

  async models() {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model.id);
    return { listed, one: await client.models.retrieve(listed[0]) };
  },

  async clones() {
    const file = await toFile(fs.createReadStream(sample), "sample.wav", { type: "audio/wav" });
    const voice = await client.audio.voices.create({ name: "Whistle", audio_sample: file, consent: "I whistled this." });
    const answer = await client.audio.speech.create({ ...body, voice: { id: voice.id } });
    fs.writeFileSync(out, Buffer.from(await answer.arrayBuffer()));
    return { voice };
  },
};

console.log(JSON.stringify(await DEEDS[does]()));
