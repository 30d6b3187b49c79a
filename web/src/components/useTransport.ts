import { SAMPLE_RATE_HZ } from "../services/api/speech";
import type { Clip } from "../services/player/clip";
import type { Playback } from "../services/player/player";
import { pause, play, playback, resume, seekTo } from "../store/speech";
import { useClip } from "./useClip";

/** How a clip is played, and what its buttons do. */
export interface Transport {
  /** `idle` while another clip is played, or none. */
  state: Playback["state"];
  isPlaying: boolean;
  positionS: number;
  bufferedS: number;
  /** Goes to a place, in seconds, and plays from there. */
  seek: (seconds: number) => void;
  /** Pauses, goes on, or begins. */
  toggle: () => void;
}

/** So near its end nothing is left to be heard, in seconds. */
const END_S = 0.05;

/** The one player of the page, as far as it plays this clip; `start` begins what is neither played nor paused. */
export function useTransport(clip: Clip, start?: () => void): Transport {
  useClip(clip);
  const now = playback.value;
  const isMine = now.clip === clip;
  const state = isMine ? now.state : "idle";
  const positionS = isMine ? now.position / SAMPLE_RATE_HZ : 0;
  const goOn = () => play(clip, isMine && positionS < clip.durationS - END_S ? now.position : 0);
  return {
    state,
    isPlaying: state === "playing",
    positionS,
    bufferedS: isMine ? now.bufferedS : 0,
    seek: (seconds) => (isMine ? seekTo(seconds) : play(clip, Math.round(seconds * SAMPLE_RATE_HZ))),
    toggle: () => {
      if (state === "playing") pause();
      else if (state === "paused") resume();
      else (start ?? goOn)();
    },
  };
}
