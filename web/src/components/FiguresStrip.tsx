/** What was measured of a take. */

import type { Figures } from "../services/figures";
import type { Take } from "../store/take";
import { durationText } from "../store/text";
import { useClip } from "./useClip";
import "./FiguresStrip.css";

const ms = (value: number | null) => (value === null ? "–" : `${Math.round(value)} ms`);

export function FiguresStrip({ take, bufferedS }: { take: Take; bufferedS: number }) {
  useClip(take.clip);
  return <FiguresList figures={take.figures.value} durationS={take.clip.durationS} bufferedS={bufferedS} />;
}

interface Props {
  figures: Figures;
  durationS: number;
  /** Audio that has come and has not been played, in seconds; left out where nothing is played. */
  bufferedS?: number;
}

export function FiguresList({ figures, durationS, bufferedS }: Props) {
  const shown: [string, string, string][] = [
    ["First sound", ms(figures.clientTtfaMs), "From the click until the first sample could be heard here"],
    ["Server", ms(figures.serverTtfaMs), "From the request's arrival until the server had the first audio"],
    [
      "RTF",
      figures.rtf === null ? "–" : figures.rtf.toFixed(3),
      "The server's work for each second of audio",
    ],
    ["Audio", durationText(durationS), "Audio that has come"],
    ...(bufferedS === undefined
      ? []
      : [
          ["Buffer", durationText(Math.max(0, bufferedS)), "Audio that has come and has not been played"] as [
            string,
            string,
            string,
          ],
        ]),
    ["Underruns", String(figures.underruns), "How often playing has run dry here"],
  ];
  return (
    <dl class="figures numbers">
      {shown.map(([name, value, meaning]) => (
        <div key={name} title={meaning}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
