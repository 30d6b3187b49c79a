/** The shape of a clip, while it comes and after; where it is played, and a slider to go elsewhere. */

import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Clip } from "../services/player/clip";
import { PEAK_SAMPLES } from "../services/player/clip";
import { durationText } from "../store/text";
import { useClip } from "./useClip";
import "./Waveform.css";

const BAR_PX = 3;
const GAP_PX = 2;
const STEP_S = 1;
const LEAP_S = 10;

interface Props {
  clip: Clip;
  /** Where it is played, in seconds. */
  positionS: number;
  /** How long it will be, about, while that is not known. */
  expectedS?: number;
  label: string;
  /** Goes to a place, in seconds. */
  onSeek: (seconds: number) => void;
}

export function Waveform({ clip, positionS, expectedS = 0, label, onSeek }: Props) {
  useClip(clip);
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry!.contentRect.width)));
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, []);
  const lengthS = clip.isComplete ? clip.durationS : Math.max(clip.durationS, expectedS, 1);
  const count = Math.max(1, Math.floor(width / (BAR_PX + GAP_PX)));
  // The position changes more often than the sound.
  const bars = useMemo(() => barsOf(clip, lengthS, count), [clip, clip.length, lengthS, count]);
  const playedPx = lengthS ? (Math.min(positionS, lengthS) / lengthS) * width : 0;

  const seek = (seconds: number) => onSeek(Math.max(0, Math.min(seconds, clip.durationS)));
  const toPointer = (event: PointerEvent) => {
    const { left } = box.current!.getBoundingClientRect();
    seek(((event.clientX - left) / Math.max(width, 1)) * lengthS);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const to = {
      ArrowLeft: positionS - STEP_S,
      ArrowDown: positionS - STEP_S,
      ArrowRight: positionS + STEP_S,
      ArrowUp: positionS + STEP_S,
      PageDown: positionS - LEAP_S,
      PageUp: positionS + LEAP_S,
      Home: 0,
      End: clip.durationS,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    seek(to);
  };
  return (
    <div
      ref={box}
      class="waveform"
      role="slider"
      tabIndex={0}
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={Math.round(clip.durationS * 10) / 10}
      aria-valuenow={Math.round(positionS * 10) / 10}
      aria-valuetext={`${durationText(positionS)} of ${durationText(clip.durationS)}`}
      onKeyDown={onKeyDown}
      onPointerDown={(event) => {
        event.currentTarget.setPointerCapture(event.pointerId);
        toPointer(event);
      }}
      onPointerMove={(event) => event.buttons === 1 && toPointer(event)}
    >
      <svg aria-hidden="true" width={width} height="72" viewBox={`0 0 ${width} 72`}>
        <path class="wave-line" d={`M0 36H${width}`} />
        <path class="wave" d={bars} />
        <svg aria-hidden="true" width={playedPx} height="72">
          <path class="wave played" d={bars} />
        </svg>
        {playedPx > 0 && <path class="wave-head" d={`M${playedPx} 2V70`} />}
      </svg>
    </div>
  );
}

/** One path of upright bars, each as high as the loudest sample in its time. */
function barsOf(clip: Clip, lengthS: number, count: number): string {
  const peaksPerS = clip.sampleRateHz / PEAK_SAMPLES;
  const perBar = (lengthS * peaksPerS) / count;
  // Quiet speech shall have a shape too, but noise at the threshold of hearing none.
  const loudest = Math.max(0.2, clip.loudest);
  let path = "";
  for (let bar = 0; bar < count; bar++) {
    const from = Math.floor(bar * perBar);
    if (from >= clip.peaks.length) break;
    let peak = 0;
    for (let i = from; i < Math.max(from + 1, (bar + 1) * perBar) && i < clip.peaks.length; i++) {
      peak = Math.max(peak, clip.peaks[i]!);
    }
    const half = Math.max(1, 33 * (peak / loudest) ** 0.75);
    path += `M${bar * (BAR_PX + GAP_PX) + BAR_PX / 2} ${(36 - half).toFixed(1)}v${(2 * half).toFixed(1)}`;
  }
  return path;
}
