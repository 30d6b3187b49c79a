/** Requests to the server that this page came from: the key on the way out, failures as one kind of error on the way in. */

/** What the server, or the way to it, has refused. */
export class ApiFailure extends Error {
  constructor(
    message: string,
    /** HTTP status; 0 where there was no answer, or the answer broke off. */
    readonly status: number,
    /** The server's word for it, such as `voice_not_found`; `unreachable` and `cut` are this page's own. */
    readonly code: string,
    /** The field at fault, if one is. */
    readonly param: string | null = null,
    /** When another try may succeed, in seconds. */
    readonly retryAfterS: number | null = null,
  ) {
    super(message);
    this.name = "ApiFailure";
  }
}

export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}

/** The API key that requests carry; empty for none. */
export const credentials = { key: "" };

/**
 * Asks the server.
 *
 * @throws ApiFailure if it cannot be reached or refuses; AbortError if the signal says so.
 */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  try {
    if (credentials.key) headers.set("authorization", `Bearer ${credentials.key}`);
  } catch {
    throw new ApiFailure("The API key has characters that no key has.", 401, "invalid_api_key");
  }
  let answer: Response;
  try {
    answer = await fetch(path, { ...init, headers });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiFailure("The server cannot be reached.", 0, "unreachable");
  }
  if (!answer.ok) throw await failureOf(answer);
  return answer;
}

/** As `request`, and reads the JSON. @throws ApiFailure; AbortError */
export async function json<T>(path: string, init: RequestInit = {}): Promise<T> {
  const answer = await request(path, init);
  try {
    return await answer.json();
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiFailure("The answer broke off, or is no JSON.", 0, "cut");
  }
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

/** Writes an error object of the server as a failure. */
export function failureFrom(body: ErrorBody, status: number, retryAfterS: number | null = null): ApiFailure {
  const { message, code, param } = body.error;
  return new ApiFailure(message, status, code ?? "unknown", param, retryAfterS);
}

async function failureOf(answer: Response): Promise<ApiFailure> {
  const inMs = numberIn(answer, "retry-after-ms");
  const retryAfterS = inMs === null ? numberIn(answer, "retry-after") : inMs / 1000;
  try {
    const body = await answer.json();
    if (body.error.message) return failureFrom(body, answer.status, retryAfterS);
  } catch (error) {
    if (isAbort(error)) throw error;
  }
  // A proxy in between has other words for it.
  const text = answer.statusText ? ` (${answer.statusText})` : "";
  return new ApiFailure(
    `The server answered ${answer.status}${text}.`,
    answer.status,
    "unknown",
    null,
    retryAfterS,
  );
}

/** The number in a header; null if it is another thing, such as a date, or not there. */
function numberIn(answer: Response, header: string): number | null {
  const value = answer.headers.get(header);
  return value && Number.isFinite(Number(value)) ? Number(value) : null;
}
