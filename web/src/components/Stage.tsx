/** A take while it is made and after: how it stands, its sound, its text and its figures. */

import { useEffect, useState } from "preact/hooks";
import { voiceName } from "../store/catalogue";
import { text } from "../store/draft";
import { speakSpec } from "../store/speech";
import type { Take } from "../store/take";
import { durationText, estimateS, unitOffsets } from "../store/text";
import { Download } from "./Download";
import { FailureNotice } from "./FailureNotice";
import { FiguresStrip } from "./FiguresStrip";
import { Snippets } from "./Snippets";
import { Transcript } from "./Transcript";
import { Icon } from "./ui/Icon";
import { useTransport } from "./useTransport";
import { TakeStateChip, Waiting } from "./Waiting";
import { Waveform } from "./Waveform";
import "./Stage.css";

/** How long the first chunks have the page to themselves, in ms: a long text takes a while to draw. */
const CALM_AFTER_MS = 250;

export function Stage({ take }: { take: Take }) {
  const { state: playback, isPlaying, positionS, bufferedS, seek, toggle } = useTransport(take.clip);
  const state = take.state.value;
  const hasAudio = take.clip.length > 0;
  const [isCalm, setIsCalm] = useState(false);
  useEffect(() => {
    if (!hasAudio) return;
    const timer = setTimeout(() => setIsCalm(true), CALM_AFTER_MS);
    return () => clearTimeout(timer);
  }, [hasAudio]);
  const { spec } = take;
  const model = take.spoken.value.model || spec.model;
  const voice = spec.voice || take.spoken.value.voice;
  // The part that broke off is said again, from its beginning.
  const brokenAt = take.marks.value.at(-1)?.text_start;
  return (
    <section class="stage card" aria-label="Speech" data-state={state} data-playback={playback}>
      <header class="row">
        <button
          type="button"
          class="stage-play icon"
          aria-label={isPlaying ? "Pause" : "Play"}
          disabled={!hasAudio}
          onClick={toggle}
        >
          <Icon name={isPlaying ? "pause" : "play"} />
        </button>
        <div class="stage-title">
          <p class="ellipsis">
            <strong>{voiceName(model, take.spoken.value.voice || spec.voice) || "default voice"}</strong>{" "}
            <span class="muted">{model}</span>
          </p>
          {hasAudio && (
            <p class="muted small-text numbers">
              {durationText(positionS)} of {durationText(take.clip.durationS)}
              {!take.clip.isComplete && " so far"}
            </p>
          )}
        </div>
        <span class="push">
          <TakeStateChip take={take} isPlaying={isPlaying} />
        </span>
      </header>
      {hasAudio ? (
        <Waveform
          clip={take.clip}
          positionS={positionS}
          expectedS={estimateS(spec.input.slice(take.from), spec.speed)}
          label="Position in the speech"
          onSeek={seek}
        />
      ) : (
        <Waiting take={take} />
      )}
      {take.failure.value && state === "failed" && (
        <FailureNotice
          failure={take.failure.value}
          keptS={take.clip.durationS}
          onRetry={() => void speakSpec(spec, take.from)}
          {...(brokenAt ? { onGoOn: () => void speakSpec(spec, unitOffsets(spec.input)[brokenAt]) } : {})}
        />
      )}
      {take.spoken.value.ignored && (
        <p class="muted small-text">The model takes no notice of: {take.spoken.value.ignored}.</p>
      )}
      {hasAudio && isCalm && (
        <Transcript
          text={spec.input}
          marks={take.marks.value}
          positionMs={1000 * positionS}
          language={spec.language}
          onSeek={seek}
          onSpeakFrom={(offset) => void speakSpec(spec, offset)}
        />
      )}
      <FiguresStrip take={take} bufferedS={bufferedS} />
      {hasAudio && (
        <footer class="row">
          <Download
            samples={() => take.clip.samples}
            name={take.spoken.value.voice || "speech"}
            isPartial={!take.clip.isComplete}
          />
          <span class="push">
            <Snippets spec={{ ...spec, model, voice }} />
          </span>
          {text.value !== spec.input && (
            <button
              type="button"
              class="quiet small"
              onClick={() => {
                text.value = spec.input;
              }}
            >
              <Icon name="edit" /> Back to this text
            </button>
          )}
        </footer>
      )}
    </section>
  );
}
