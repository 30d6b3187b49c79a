/** Turns recorded audio into a file of another format, at the server, which has the encoders. */

import { request } from "./http";

export const FORMATS = ["wav", "mp3", "opus", "aac", "flac", "pcm"] as const;
export type Format = (typeof FORMATS)[number];

/** @throws ApiFailure */
export async function encode(wav: Blob, format: Format): Promise<Blob> {
  const answer = await request(`/api/encode?format=${format}`, {
    method: "POST",
    headers: { "content-type": "audio/wav" },
    body: wav,
  });
  return answer.blob();
}
