import { expect, test } from "vitest";
import { error, json, serve } from "../../testing/server";
import { type ApiFailure, credentials, isAbort, json as readJson, request } from "./http";

const server = serve();

async function failureOf(promise: Promise<unknown>): Promise<ApiFailure> {
  return promise.then(
    () => expect.unreachable("It was not refused."),
    (failure) => failure,
  );
}

test("an answer is read", async () => {
  server.answers = [json(200, { some: "thing" })];
  expect(await readJson("/api/thing?x=1")).toEqual({ some: "thing" });
  expect(server.asked[0]).toMatchObject({ method: "GET", path: "/api/thing?x=1" });
});

test("the key goes with a request, if there is one, beside its own headers", async () => {
  server.answers = [json(200, {}), json(200, {})];
  credentials.key = "sk-1";
  await request("/", { headers: { accept: "a/b" } });
  credentials.key = "";
  await request("/");
  expect(server.asked[0]!.headers).toMatchObject({ authorization: "Bearer sk-1", accept: "a/b" });
  expect(server.asked[1]!.headers.authorization).toBeUndefined();
});

test("a key that no header can carry, and an answer that is no JSON, are failures like others", async () => {
  credentials.key = "sk-\u2026";
  expect(await failureOf(request("/"))).toMatchObject({ name: "ApiFailure", status: 401 });
  credentials.key = "";
  server.answers = [(response) => response.end("<html>")];
  expect(await failureOf(readJson("/"))).toMatchObject({ name: "ApiFailure", code: "cut" });
});

test("an error object is read", async () => {
  server.answers = [json(404, error("voice_not_found", "There is no voice `x`.", "voice"))];
  expect(await failureOf(request("/"))).toMatchObject({
    name: "ApiFailure",
    message: "There is no voice `x`.",
    status: 404,
    code: "voice_not_found",
    param: "voice",
    retryAfterS: null,
  });
});

test.each([
  [{ "retry-after": "2" }, 2],
  [{ "retry-after": "2", "retry-after-ms": "1500" }, 1.5],
  [{ "retry-after": "Wed, 21 Oct 2026 07:28:00 GMT" }, null],
  [{ "retry-after": "0" }, 0],
  [{}, null],
])("%j says when to try again", async (headers, retryAfterS) => {
  server.answers = [json(503, error("overloaded"), headers as Record<string, string>)];
  expect(await failureOf(request("/"))).toMatchObject({ retryAfterS });
});

test.each([
  ["a page", "<html>nginx</html>"],
  ["nothing", ""],
  ["JSON without an error", "{}"],
  ["an error of another kind", '{"error": "upstream"}'],
])("a refusal with %s is told by its status", async (_, body) => {
  server.answers = [(response) => response.writeHead(502, { "retry-after": "3" }).end(body)];
  expect(await failureOf(request("/"))).toMatchObject({
    message: "The server answered 502 (Bad Gateway).",
    status: 502,
    code: "unknown",
    retryAfterS: 3,
  });
});

test("an abort stays one, also in the midst of a refusal", async () => {
  const abort = new AbortController();
  const { fetch } = globalThis;
  globalThis.fetch = async (path, init) => {
    const answer = await fetch(path, init);
    abort.abort(); // When the status has come, and before the rest.
    return answer;
  };
  server.answers = [(response) => response.writeHead(503, { "content-length": "99" }).write("{")];
  expect(isAbort(await failureOf(request("/", { signal: abort.signal })))).toBe(true);
  globalThis.fetch = fetch;
  expect(isAbort(await failureOf(request("/", { signal: abort.signal })))).toBe(true);
});

test("a server that is not there is unreachable", async () => {
  server.close();
  expect(await failureOf(request("/"))).toMatchObject({ status: 0, code: "unreachable" });
});
