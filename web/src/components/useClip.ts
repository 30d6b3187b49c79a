import { useEffect, useState } from "preact/hooks";
import type { Clip } from "../services/player/clip";

/** Draws the component again, at most once a frame, as long as the clip grows. */
export function useClip(clip: Clip): void {
  const [, setLength] = useState(0);
  useEffect(() => {
    let frame = 0;
    const look = () => {
      // Not -0 for one that is empty: what is complete differs from what has not begun.
      setLength(clip.isComplete ? -1 - clip.length : clip.length);
      if (!clip.isComplete) frame = requestAnimationFrame(look);
    };
    look();
    return () => cancelAnimationFrame(frame);
  }, [clip]);
}
