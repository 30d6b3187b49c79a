import { afterEach, beforeEach, expect, test, vi } from "vitest";

let written: string[] = [];

beforeEach(() => {
  written = [];
  vi.useFakeTimers();
  vi.stubGlobal("localStorage", {
    getItem: () => null,
    setItem: (_: string, value: string) => written.push(value),
  });
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

test("the draft is kept once typing rests, without a text that is too long", async () => {
  const draft = await import("./draft");
  for (const text of ["o", "on", "one"]) draft.text.value = text;
  expect(written).toEqual([]);
  vi.runAllTimers();
  expect(written.map((each) => JSON.parse(each).text)).toEqual(["one"]);
  draft.text.value = "x".repeat(200_001);
  draft.speed.value = 2;
  vi.runAllTimers();
  expect(JSON.parse(written.at(-1)!)).toMatchObject({ text: "", speed: 2 });
});
