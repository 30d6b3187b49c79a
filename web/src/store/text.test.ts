import { expect, test } from "vitest";
import {
  bytesText,
  countChars,
  durationText,
  estimateS,
  piecesOf,
  readable,
  sentences,
  unitOffsets,
} from "./text";

test.each([
  ["", 0, [0]],
  ["ab", 2, [0, 1, 2]],
  ["a🙂b", 3, [0, 1, 3, 4]],
  ["e\u0301", 2, [0, 1, 2]], // A letter and its accent.
  ["👩‍🚀", 3, [0, 2, 3, 5]],
  ["\ud83dx", 2, [0, 1, 2]], // Half a pair.
])("%j is counted in code points, each with its index", (text, count, offsets) => {
  expect(countChars(text)).toBe(count);
  expect(unitOffsets(text)).toEqual(offsets);
});

test("the estimate goes by what is spoken, and by the speed", () => {
  expect(estimateS(`  ${"x".repeat(30)}\n`, 1)).toBe(2);
  expect(estimateS("x".repeat(30), 2)).toBe(1);
  expect(estimateS(" ", 1)).toBe(0);
});

test.each([
  [0, "0.0 s"],
  [4.24, "4.2 s"],
  [59.94, "59.9 s"],
  [59.96, "1:00 min"],
  [65, "1:05 min"],
  [119.6, "2:00 min"],
  [3725, "62:05 min"],
])("%d seconds are written %j", (seconds, text) => {
  expect(durationText(seconds)).toBe(text);
});

test.each([
  [0, "0 B"],
  [999, "999 B"],
  [1000, "1 kB"],
  [999_600, "1.0 MB"],
  [2_340_000, "2.3 MB"],
  [999_960_000, "1.0 GB"],
  [8e10, "80.0 GB"],
  [5e15, "5000.0 TB"],
])("%d bytes are written %j", (bytes, text) => {
  expect(bytesText(bytes)).toBe(text);
});

test("sentences cover the text without a gap", () => {
  const text = "One 🙂. Two?\n\nThree! ";
  const parts = sentences(text).map(({ start, end }) => text.slice(start, end));
  expect(parts.map((part) => part.trim()).filter(Boolean)).toEqual(["One 🙂.", "Two?", "Three!"]);
  expect(parts.join("")).toBe(text);
  expect(sentences("")).toEqual([]);
});

test.each(["de", "", "no_tag", "zz-Wxyz"])("a text in the language %j is cut", (language) => {
  expect(sentences("Eins. Zwei.", language)).toEqual([
    { start: 0, end: 6 },
    { start: 6, end: 11 },
  ]);
});

test.each([
  ["a text that is short enough", "One. Two.", 9, ["One. Two."]],
  ["sentences that fit together", "One. Two. Three.", 12, ["One. Two. ", "Three."]],
  [
    "a sentence that is too long, between words",
    "Zero. One two three. Four.",
    9,
    ["Zero. ", "One two ", "three. ", "Four."],
  ],
  ["a word that is too long", "abcdefgh.", 4, ["abcd", "efgh", "."]],
  ["characters of two units", "🙂🙂🙂", 3, ["🙂", "🙂", "🙂"]],
  ["more white space than fits", `One.${" ".repeat(20)}Two.`, 8, ["One.    ", "Two."]],
  ["nothing to say", " \n", 9, []],
])("a long text is cut into pieces: %s", (_, text, most, expected) => {
  expect(piecesOf(text, most).map(({ start, end }) => text.slice(start, end))).toEqual(expected);
});

test("pieces of any size hold all that is said, and none is too long", () => {
  const text = "One 🙂 two. Three, four; five! Six?\n\nSeveneightnine 🙂🙂🙂. ".repeat(3);
  for (let most = 2; most < text.length; most++) {
    const pieces = piecesOf(text, most).map(({ start, end }) => text.slice(start, end));
    expect(Math.max(...pieces.map((piece) => piece.length))).toBeLessThanOrEqual(most);
    expect(pieces.every((piece) => piece.isWellFormed() && piece.trim())).toBe(true);
    expect(pieces.join("").replace(/\s+/g, "")).toBe(text.replace(/\s+/g, ""));
  }
});

test("plain text stays as it is, but for its line ends", () => {
  expect(readable("a.txt", "# One *two*  \r\n\r\n\r\n\r\nthree\t\n")).toBe("# One *two*\n\nthree");
});

test("what is no text is refused by name", () => {
  expect(() => readable("a.txt", "PK\0\x01")).toThrow("a.txt");
});

test.each([
  ["front matter", "---\ntitle: x\n---\nText.", "Text."],
  ["a comment", "One<!-- two\nthree -->.", "One."],
  ["a heading", "# One #\nText.\n\n## Two\n\nMore.", "One\n\nText.\n\nTwo\n\nMore."],
  ["an underlined heading", "One\n===\n\nText.\n\nTwo\n---\nMore.", "One\n\nText.\n\nTwo\n\nMore."],
  ["a quote", "> One\n> > two\n>> # Three", "One\ntwo\nThree"],
  ["a list", "Some:\n\n- one\n* two\n  + three\n1. four\n2) five", "Some:\n\none\ntwo\nthree\nfour\nfive"],
  ["a rule", "One\n\n***\n\nTwo\n\n- - -\n\nThree", "One\n\nTwo\n\nThree"],
  ["a link", "See [the *page*](https://x.y/z) and [that][1].\n\n[1]: https://x.y", "See the page and that."],
  ["a picture", "![A boat](boat.png) lies here.", "A boat lies here."],
  ["brackets in links", "See [it](https://x.y/z_(1)) ![a](b_(2).png)!", "See it a!"],
  ["code", "Call `run()`.\n\n```js\nrun();\n```\n\n~~~\nx\n~~~\nDone.", "Call run().\n\nDone."],
  ["emphasis", "A *b* **c d** __e__ _f_ ~~g~~ ***h***.", "A b c d e f g h."],
  ["no emphasis", "2 * 3 * 4, snake_case_name, a*b*c", "2 * 3 * 4, snake_case_name, a*b*c"],
])("Markdown loses its marks: %s", (_, text, expected) => {
  expect(readable("a.md", text)).toBe(expected);
  expect(readable("a.markdown", text.replaceAll("\n", "\r\n"))).toBe(expected);
});
