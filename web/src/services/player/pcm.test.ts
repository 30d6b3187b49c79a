import { expect, test } from "vitest";
import { SampleReader, toFloats, toWav } from "./pcm";

const BYTES = Uint8Array.of(0x00, 0x00, 0xff, 0x7f, 0x00, 0x80, 0x01, 0x00, 0xff, 0xff, 0x34);
const SAMPLES = [0, 32767, -32768, 1, -1];

test("bytes give the same samples wherever they are cut", () => {
  for (let first = 0; first <= BYTES.length; first++) {
    for (let second = first; second <= BYTES.length; second++) {
      const reader = new SampleReader();
      const pieces = [BYTES.subarray(0, first), BYTES.subarray(first, second), BYTES.subarray(second)];
      expect(
        pieces.flatMap((piece) => [...reader.read(piece)]),
        `cut at ${first} and ${second}`,
      ).toEqual(SAMPLES);
      expect(reader.isWithinSample).toBe(true);
      expect([...reader.read(Uint8Array.of(0x12))]).toEqual([0x1234]);
      expect(reader.isWithinSample).toBe(false);
    }
  }
});

test("full scale becomes [-1, 1)", () => {
  expect([...toFloats(Int16Array.of(-32768, 0, 16384, 32767))]).toEqual([-1, 0, 0.5, 32767 / 32768]);
});

test("a WAV file is a header of 44 bytes and the samples", async () => {
  const file = toWav(Int16Array.from(SAMPLES), 24_000);
  const bytes = Buffer.from(await file.arrayBuffer());
  expect(file.type).toBe("audio/wav");
  expect(bytes.subarray(0, 44).toString("hex")).toBe(
    [
      "52494646", // RIFF
      "2e000000", // 36 + 10 bytes
      "57415645666d7420", // WAVEfmt
      "10000000", // 16 bytes of format
      "01000100", // PCM, one channel
      "c05d0000", // 24,000 samples a second
      "80bb0000", // 48,000 bytes a second
      "02001000", // 2 bytes, 16 bits
      "64617461", // data
      "0a000000", // 10 bytes
    ].join(""),
  );
  expect(bytes.subarray(44)).toEqual(Buffer.from(BYTES.subarray(0, 10)));
});
