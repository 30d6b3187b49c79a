/** Audio as a file, in any format: exactly what was heard, also of a stream that broke off. */

import { signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { encode, FORMATS, type Format } from "../services/api/encode";
import { SAMPLE_RATE_HZ } from "../services/api/speech";
import { toWav } from "../services/player/pcm";
import { recall, remember } from "../services/preferences";
import { announce } from "../store/announce";
import { Icon } from "./ui/Icon";
import "./Download.css";

/** The format of files, and of requests that are copied as code. */
export const format = signal<Format>(recall("format", "wav"));

export function FormatSelect({ id, label }: { id?: string; label?: string }) {
  return (
    <select
      id={id}
      aria-label={label}
      value={format.value}
      onChange={(event) => {
        format.value = event.currentTarget.value as Format;
        remember("format", format.value);
      }}
    >
      {FORMATS.map((name) => (
        <option key={name}>{name}</option>
      ))}
    </select>
  );
}

interface Props {
  samples: () => Int16Array;
  /** Name of the file, without its ending. */
  name: string;
  /** Whether more is still to come. */
  isPartial?: boolean;
}

export function Download({ samples, name, isPartial = false }: Props) {
  const [complaint, setComplaint] = useState("");
  const save = async () => {
    setComplaint("");
    try {
      const wav = toWav(samples(), SAMPLE_RATE_HZ);
      offer(
        format.value === "wav" ? wav : await encode(wav, format.value),
        `${name}.${ending(format.value)}`,
      );
      announce(`Saved as ${format.value}.`);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      setComplaint(why);
      announce(why);
    }
  };
  return (
    <div class="row download">
      <FormatSelect label="Format of the file" />
      <button type="button" class="small" disabled={isPartial} onClick={() => void save()}>
        <Icon name="download" /> Download
      </button>
      {complaint && <p class="small-text download-complaint">{complaint}</p>}
    </div>
  );
}

function ending(of: Format): string {
  return of === "opus" ? "ogg" : of;
}

function offer(file: Blob, name: string): void {
  const url = URL.createObjectURL(file);
  const link = document.createElement("a");
  link.href = url;
  link.download = name.replace(/[^\w.-]+/g, "-");
  link.click();
  // The browser has begun to read it by then.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
