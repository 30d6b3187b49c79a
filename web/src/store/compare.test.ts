import "fake-indexeddb/auto";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { type Answer, DONE, delta, error, events, hang, json, serve, sse } from "../testing/server";
import { announcement } from "./announce";
import { canVote, compare, isBlind, isHidden, isOver, lanes, nameOf, round, tallies, vote } from "./compare";
import { text } from "./draft";
import { entries, forgetAll } from "./history";
import { speak, stop } from "./speech";

const server = serve();

// A device that never gets ready: what is played is heard by nobody, and never ends.
const never = { addModule: () => new Promise(() => {}) };
Object.assign(globalThis, {
  AudioContext: class {
    state = "running";
    audioWorklet = never;
    suspend = async () => {};
  },
});

/** A voice that speaks, as the server says. */
function spoken(voice: string): Answer {
  return events(sse(delta(1, 2), DONE), { "x-sonorant-model": "m", "x-sonorant-voice": voice });
}

/** The rounds of a test. */
const asked: Promise<void>[] = [];

/** Has voices compared, each of which answers like this. */
function compareThose(answers: Record<string, Answer>, voices: string[] = Object.keys(answers)) {
  server.answerTo = ({ body }) => answers[JSON.parse(body).voice ?? ""];
  lanes.value = voices.map((voice) => ({ model: "m", voice }));
  asked.push(compare());
  return asked.at(-1)!;
}

async function untilOver(): Promise<void> {
  await vi.waitFor(() => expect(isOver.value).toBe(true));
}

beforeEach(async () => {
  round.value = null;
  tallies.value = {};
  isBlind.value = false;
  text.value = "Hello.";
  await forgetAll();
});

afterEach(async () => {
  stop();
  round.peek()?.reveal();
  await Promise.all(asked.splice(0));
});

test("each take is kept when it is over, whatever the others do", async () => {
  void compareThose({ a: hang(sse(delta(1))), b: spoken("b") });
  await vi.waitFor(() => expect(entries.value).toMatchObject([{ spec: { voice: "b" } }]));
  expect(isOver.value).toBe(false);
});

test("the takes of a blind round are kept when it has been voted on", async () => {
  isBlind.value = true;
  const kept = compareThose({ a: spoken("a"), b: spoken("b") });
  await untilOver();
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect([entries.value, isHidden.value]).toEqual([[], true]);
  vote(0);
  await kept;
  expect([entries.value?.length, isHidden.value]).toEqual([2, false]);
});

test("or when another round takes its place", async () => {
  isBlind.value = true;
  const kept = compareThose({ a: spoken("a"), b: hang(sse(delta(1))) });
  await vi.waitFor(() => expect(round.value?.takes.filter(({ clip }) => clip.length).length).toBe(2));
  void compareThose({ c: spoken("c"), d: spoken("d") });
  await kept;
  expect(entries.value?.map(({ spec }) => spec.voice).sort()).toEqual(["a", "b"]);
});

test("a failure in a blind round is told without its words, until nothing is left to be judged", async () => {
  isBlind.value = true;
  void compareThose({ a: json(400, error("bad", "The voice a is hoarse.")), b: hang(sse(delta(1))) });
  await vi.waitFor(() => expect(announcement.value).toMatch(/^[AB] has failed\.$/));
  const refused = json(400, error("bad", "The voice c is hoarse."));
  await Promise.race([compareThose({ c: refused, d: refused }), untilOver()]);
  expect(isHidden.value).toBe(false);
});

test("nobody votes before all are over, or for one that said nothing", async () => {
  void compareThose({ a: spoken("a"), b: hang(""), c: json(400, error("bad")) });
  await vi.waitFor(() => expect(round.value?.takes.filter((take) => take.isOver.value).length).toBe(2));
  vote(0);
  expect([canVote.value, round.value?.vote]).toEqual([false, null]);
  stop();
  await untilOver();
  vote(1);
  expect(round.value?.vote).toBeNull();
  vote(0);
  expect(round.value?.vote).toBe(0);
  expect(tallies.value).toEqual({ "a · m": { rounds: 1, votes: 1 } });
});

test("a voice that speaks in two lanes is judged once", async () => {
  await compareThose({ a: spoken("a"), b: spoken("b") }, ["a", "b", "a"]);
  vote(2);
  expect(tallies.value).toEqual({ "a · m": { rounds: 1, votes: 1 }, "b · m": { rounds: 1, votes: 0 } });
});

test("a voice that the catalogue does not know is called by its id", () => {
  expect(nameOf("a · b · org/m")).toBe("a · b · org/m");
});

test("what is said next stops the round, and a round stops what is said", async () => {
  const gone = Promise.withResolvers<void>();
  void compareThose({ a: hang(sse(delta(1)), gone.resolve), b: hang("") });
  await vi.waitFor(() => expect(round.value?.takes[0]?.clip.length).toBe(1));
  const hungUp = Promise.withResolvers<void>();
  server.answerTo = () => hang(sse(delta(1)), hungUp.resolve);
  void speak("Something else.");
  await gone.promise;
  await untilOver();
  expect(round.value?.takes.map(({ state }) => state.value)).toEqual(["stopped", "stopped"]);
  await vi.waitFor(() => expect(server.asked).toHaveLength(3));
  void compareThose({ a: spoken("a"), b: spoken("b") });
  await hungUp.promise;
});
