import { expect, test } from "vitest";
import { announce, announcement } from "./announce";

test("the same sentence twice is a change each time", () => {
  const heard: string[] = [];
  const stop = announcement.subscribe((now) => heard.push(now));
  for (let i = 0; i < 3; i++) announce("Copied.");
  stop();
  expect(heard.slice(1).map((each) => each.trim())).toEqual(["Copied.", "Copied.", "Copied."]);
});
