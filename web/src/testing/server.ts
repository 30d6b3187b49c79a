/** A server for tests: real HTTP on this machine, which answers as each test says. */

import { createServer, type IncomingHttpHeaders, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach } from "vitest";

export interface Asked {
  method: string;
  path: string;
  headers: IncomingHttpHeaders;
  body: string;
}

export type Answer = (response: ServerResponse) => void;

/** What the server is asked, and what it answers. */
export class Server {
  asked: Asked[] = [];
  /** One for each request in turn. */
  answers: Answer[] = [];
  /** One by what is asked, where requests come in any order. */
  answerTo: (asked: Asked) => Answer | undefined = () => this.answers.shift();
  /** Ends it before the test does. */
  close: () => void = () => {};
}

/** A server for the tests of a file. Paths lead to it, as they lead to a page's own origin. */
export function serve(): Server {
  const server = new Server();
  const http = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request.setEncoding("utf8")) body += piece;
    const { method = "", url: path = "", headers } = request;
    const asked = { method, path, headers, body };
    server.asked.push(asked);
    const answer = server.answerTo(asked);
    if (answer) answer(response);
    else response.writeHead(404).end();
  });
  server.close = () => {
    http.closeAllConnections();
    http.close();
  };
  const { fetch } = globalThis;
  beforeAll(async () => {
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    const origin = `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
    globalThis.fetch = (path, init) => fetch(new URL(String(path), origin), init);
  });
  beforeEach(() => {
    server.asked = [];
    server.answers = [];
  });
  afterAll(() => {
    globalThis.fetch = fetch;
    server.close();
  });
  return server;
}

/** Events as they go over the wire. */
export function sse(...events: object[]): string {
  return events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("");
}

/** The event of a piece of audio. */
export function delta(...samples: number[]): object {
  const bytes = Buffer.alloc(2 * samples.length);
  samples.forEach((sample, i) => {
    bytes.writeInt16LE(sample, 2 * i);
  });
  return { type: "speech.audio.delta", audio: bytes.toString("base64") };
}

export const DONE = {
  type: "speech.audio.done",
  figures: { ttfa_ms: 40, rtf: 0.2, queue_ms: 3, underruns: 0 },
};

/** An error object, as the server writes it. */
export function error(code: string, message = `It is ${code}.`, param: string | null = null): object {
  return { error: { message, type: "server_error", param, code } };
}

/** Answers with events, and headers. */
export function events(body: string, headers: Record<string, string> = {}): Answer {
  return (response) => response.writeHead(200, { "content-type": "text/event-stream", ...headers }).end(body);
}

/** Answers with JSON. */
export function json(status: number, body: unknown, headers: Record<string, string> = {}): Answer {
  return (response) =>
    response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
}

/** Answers with the beginning of a body, and breaks the connection off. */
export function cut(beginning: string): Answer {
  return (response) => response.writeHead(200).write(beginning, () => response.destroy());
}

/** Answers with the beginning of a body, and leaves it at that until the client hangs up. */
export function hang(beginning: string, onGone: () => void = () => {}): Answer {
  return (response) => response.on("close", onGone).writeHead(200).write(beginning);
}
