/** Server-sent events out of a body, as they come. */

import { createParser, type EventSourceMessage } from "eventsource-parser";
import { ApiFailure } from "./http";

/**
 * Reads the events of a body, wherever its chunks are cut.
 *
 * @throws ApiFailure if the connection is lost; AbortError if the request is given up.
 */
export async function* eventsOf(body: ReadableStream<Uint8Array>): AsyncGenerator<EventSourceMessage> {
  const events: EventSourceMessage[] = [];
  const parser = createParser({ onEvent: (event) => events.push(event) });
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      parser.feed(decoder.decode(value, { stream: true }));
      yield* events.splice(0);
    }
  } catch (error) {
    // What `fetch` says of a connection that is gone.
    if (error instanceof TypeError) throw new ApiFailure("The connection was lost.", 0, "cut");
    throw error;
  } finally {
    // Ends the request where the reader stops early, and with it the work at the server.
    await reader.cancel().catch(() => {});
  }
}
