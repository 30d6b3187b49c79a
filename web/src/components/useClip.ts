import { useEffect, useState } from "preact/hooks";
import type { Clip } from "../services/player/clip";

/** How often what grows is drawn again, in ms: speech comes a hundred times as fast as it is heard. */
const PERIOD_MS = 100;

/** Draws the component again as long as the clip grows. */
export function useClip(clip: Clip): void {
  const [, setLength] = useState(0);
  useEffect(() => {
    const look = () => {
      // What is complete differs from what has not begun, also if both are empty.
      setLength(clip.isComplete ? -1 - clip.length : clip.length);
      if (clip.isComplete) clearInterval(timer);
    };
    const timer = setInterval(look, PERIOD_MS);
    look();
    return () => clearInterval(timer);
  }, [clip]);
}
