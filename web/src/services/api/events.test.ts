import { expect, test } from "vitest";
import { eventsOf } from "./events";

const TEXT = [
  ": a comment\n\n",
  'data: {"a": "é🙂"}\n\n',
  "event: error\r\ndata: one\r\ndata: two\r\n\r\n",
  ": another\r\n",
  "id: 7\ndata:three\n\n",
].join("");
const EVENTS = [
  { event: undefined, data: '{"a": "é🙂"}' },
  { event: "error", data: "one\ntwo" },
  { event: undefined, data: "three" },
];

/** A body in pieces; a failure breaks it off. */
function bodyOf(pieces: Uint8Array[], failure?: Error): ReadableStream<Uint8Array> {
  return new ReadableStream({
    pull(controller) {
      const piece = pieces.shift();
      if (piece) controller.enqueue(piece);
      else if (failure) controller.error(failure);
      else controller.close();
    },
  });
}

async function read(body: ReadableStream<Uint8Array>): Promise<object[]> {
  const events = [];
  for await (const { event, data } of eventsOf(body)) events.push({ event, data });
  return events;
}

test("events are the same wherever their bytes are cut", async () => {
  const bytes = new TextEncoder().encode(TEXT);
  for (let at = 0; at <= bytes.length; at++) {
    expect(await read(bodyOf([bytes.subarray(0, at), bytes.subarray(at)])), `cut at ${at}`).toEqual(EVENTS);
  }
  expect(await read(bodyOf(Array.from(bytes, (byte) => Uint8Array.of(byte))))).toEqual(EVENTS);
});

test("an event comes as soon as it is whole", async () => {
  let feed!: ReadableStreamDefaultController<Uint8Array>;
  const events = eventsOf(
    new ReadableStream({
      start(controller) {
        feed = controller;
      },
    }),
  );
  feed.enqueue(new TextEncoder().encode("data: one\n\ndata: tw"));
  expect((await events.next()).value).toMatchObject({ data: "one" });
});

test("an event that is not whole at the end is none", async () => {
  expect(await read(bodyOf([new TextEncoder().encode("data: one\n")]))).toEqual([]);
});

test("a connection that is lost is a failure, and what came before it is there", async () => {
  const events = eventsOf(bodyOf([new TextEncoder().encode("data: one\n\n")], new TypeError("terminated")));
  expect((await events.next()).value).toMatchObject({ data: "one" });
  await expect(events.next()).rejects.toMatchObject({ name: "ApiFailure", status: 0, code: "cut" });
});

test("a reader that has enough ends the request", async () => {
  const reasons: unknown[] = [];
  const body = new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(new TextEncoder().encode("data: one\n\ndata: two\n\n")),
    cancel: (reason) => {
      reasons.push(reason);
    },
  });
  for await (const _ of eventsOf(body)) break;
  expect(reasons).toHaveLength(1);
});
