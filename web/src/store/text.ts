/** Text as it is counted, estimated and cut; pure functions. */

/** Characters of speech a second; what the estimate of a duration goes by. */
const CHARS_PER_S = 15;

/** Number of Unicode code points, which is how the server counts. */
export function countChars(text: string): number {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** How long a text takes to speak, about, in seconds. */
export function estimateS(text: string, speed: number): number {
  return countChars(text.trim()) / CHARS_PER_S / speed;
}

/** A duration for people: `4.2 s`, `1:05 min`. */
export function durationText(seconds: number): string {
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} min`;
}

/** A number of bytes for people. */
export function bytesText(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const texts = units.map((_, power) => (bytes / 1000 ** power).toFixed(power > 1 ? 1 : 0));
  const power = texts.findIndex((text, i) => Number(text) < 1000 || i === units.length - 1);
  return `${texts[power]} ${units[power]}`;
}

/** The index in UTF-16, as JavaScript counts, of each code point of a text, and of its end. */
export function unitOffsets(text: string): number[] {
  const offsets = [];
  let at = 0;
  for (const char of text) {
    offsets.push(at);
    at += char.length;
  }
  return [...offsets, at];
}

/** A part of a text, in UTF-16 units. */
export interface Span {
  start: number;
  end: number;
}

/** Cuts a text into sentences; white space goes with the sentence before it. */
export function sentences(text: string, language = ""): Span[] {
  const cutter = new Intl.Segmenter(knownLanguage(language), { granularity: "sentence" });
  return Array.from(cutter.segment(text), (each) => ({
    start: each.index,
    end: each.index + each.segment.length,
  }));
}

/** Cuts a text at ends of sentences into pieces of so many units at most; one that is short enough stays whole. */
export function piecesOf(text: string, mostUnits: number): Span[] {
  const pieces: Span[] = [];
  let start = 0;
  let end = 0;
  const cut = (at: number) => {
    if (text.slice(start, at).trim()) pieces.push({ start, end: at });
    start = at;
  };
  for (const sentence of text.length > mostUnits ? sentences(text) : []) {
    if (sentence.end - start > mostUnits && end > start) cut(end);
    // A sentence that is longer than a piece is cut between words, or where there are none.
    while (sentence.end - start > mostUnits) cut(start + roomFor(text.slice(start, start + mostUnits)));
    end = sentence.end;
  }
  cut(text.length);
  return pieces;
}

/** How much of a text fits without a word, or else a character, being cut. */
function roomFor(text: string): number {
  const space = text.search(/\s\S*$/);
  if (space > 0) return space + 1;
  return /[\uD800-\uDBFF]$/.test(text) ? text.length - 1 : text.length;
}

/** The language, if it is one that this browser knows; else English. */
function knownLanguage(language: string): string {
  try {
    return Intl.Segmenter.supportedLocalesOf(language)[0] ?? "en";
  } catch {
    return "en"; // What is typed need be no tag.
  }
}

/**
 * What a file has to say: plain text as it is, Markdown without its marks, and pages taken out of an EPUB (XHTML)
 * without their tags.
 *
 * @throws Error naming the file, if it holds no text.
 */
export function readable(name: string, content: string): string {
  if (content.includes("\0")) throw new Error(`${name} is no text file.`);
  if (/\.x?html?$/i.test(name)) {
    const page = new DOMParser().parseFromString(content, "text/html");
    for (const hidden of page.querySelectorAll("script, style, head")) hidden.remove();
    for (const block of page.querySelectorAll("p, div, li, br, h1, h2, h3, h4, h5, h6")) block.append("\n");
    return tidy(page.body.textContent ?? "");
  }
  const text = tidy(content);
  return /\.(md|markdown)$/i.test(name) ? tidy(withoutMarkdown(text)) : text;
}

function withoutMarkdown(text: string): string {
  return text
    .replace(/^---\n[\s\S]*?\n---\n/, "") // Front matter.
    .replace(/^(```|~~~)[\s\S]*?^\1[^\n]*$/gm, "")
    .replace(/<!--[\s\S]*?-->/g, "")
    .replace(/^ {0,3}(>[ \t]?)+/gm, "")
    .replace(/^ {0,3}\[[^\]]+\]:.*$/gm, "") // Where a link leads.
    .replace(/!\[([^\]]*)\]\((?:[^()]|\([^()]*\))*\)/g, "$1")
    .replace(/\[([^\]]+)\](\((?:[^()]|\([^()]*\))*\)|\[[^\]]*\])/g, "$1")
    .replace(/^ {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*$/gm, "$1\n")
    .replace(/^ {0,3}=+$/gm, "")
    .replace(/^[ \t]*([-*_])([ \t]*\1){2,}$/gm, "")
    .replace(/^[ \t]*([-*+]|\d+[.)])[ \t]+/gm, "")
    .replace(/(\*\*|__|~~)(?=\S)([\s\S]*?\S)\1/g, "$2")
    .replace(/(^|[^\w*])[*_](?=\S)([^*_\n]*\S)[*_](?=$|[^\w*])/gm, "$1$2")
    .replace(/`([^`\n]+)`/g, "$1");
}

function tidy(text: string): string {
  return text
    .replace(/\r\n?/g, "\n")
    .replace(/[ \t]+\n/g, "\n")
    .replace(/\n{3,}/g, "\n\n")
    .trim();
}
