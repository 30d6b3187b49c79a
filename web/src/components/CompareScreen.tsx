/** The same text from several voices; who likes to judge fairly does so blind. */

import { useState } from "preact/hooks";
import { defaultModel, modelOf, voiceName, voicesOf } from "../store/catalogue";
import * as compare from "../store/compare";
import { numChars, text } from "../store/draft";
import { playback, stop } from "../store/speech";
import type { Take } from "../store/take";
import { durationText, estimateS } from "../store/text";
import { FailureNotice } from "./FailureNotice";
import { FiguresStrip } from "./FiguresStrip";
import { ModelPicker } from "./ModelPicker";
import { PickerButton } from "./OptionsPanel";
import { Troubles } from "./Troubles";
import { Chip } from "./ui/Chip";
import { Icon } from "./ui/Icon";
import { Notice } from "./ui/Notice";
import { useTransport } from "./useTransport";
import { VoicePicker } from "./VoicePicker";
import { stateShown, TakeStateChip, Waiting } from "./Waiting";
import { Waveform } from "./Waveform";
import "./CompareScreen.css";

export function CompareScreen() {
  const lanes = compare.lanes.value;
  const round = compare.round.value;
  const { clip, state } = playback.value;
  const isHeard = state === "playing" && round?.takes.some((take) => take.clip === clip);
  const isBusy = isHeard || (round && !compare.isOver.value);
  return (
    <>
      <header class="screen-head">
        <h1>Compare</h1>
        <p>
          The same text and the same seed for all. Blind, the voices are shuffled, and named when you have
          voted.
        </p>
      </header>
      <Troubles />
      <section class="composer card" aria-label="Text">
        <label class="visually-hidden" for="text">
          Text to compare
        </label>
        <textarea
          id="text"
          rows={3}
          value={text.value}
          placeholder="The text that all of them are to say."
          onInput={(event) => {
            text.value = event.currentTarget.value;
          }}
        />
        <div class="composer-foot">
          <label class="row small-text">
            <input
              type="checkbox"
              checked={compare.isBlind.value}
              onChange={(event) => {
                compare.isBlind.value = event.currentTarget.checked;
              }}
            />
            Blind
          </label>
          <label class="row small-text">
            <input
              type="checkbox"
              checked={compare.inTurn.value}
              onChange={(event) => {
                compare.inTurn.value = event.currentTarget.checked;
              }}
            />
            Play one after the other
          </label>
          <div class="row push composer-actions">
            <button type="button" disabled={!isBusy} onClick={stop}>
              <Icon name="stop" /> Stop <kbd>Esc</kbd>
            </button>
            <button
              type="button"
              class="primary"
              disabled={!numChars.value}
              onClick={() => void compare.compare()}
            >
              <Icon name="play" /> Speak all <kbd>Ctrl ↵</kbd>
            </button>
          </div>
        </div>
      </section>
      <section aria-label="Voices to compare">
        <ul class="lanes">
          {lanes.map((lane, i) => (
            <LaneChoice key={i} index={i} lane={lane} canLeave={lanes.length > compare.LEAST_LANES} />
          ))}
          {lanes.length < compare.MOST_LANES && (
            <li class="lane-add">
              <button type="button" class="quiet" onClick={compare.addLane}>
                <Icon name="plus" /> Another voice
              </button>
            </li>
          )}
        </ul>
      </section>
      {round && (
        <section aria-label="What they said">
          <ul class="lanes results">
            {round.takes.map((take, i) => (
              <Result key={take.id} take={take} index={i} />
            ))}
          </ul>
        </section>
      )}
      <Tallies />
    </>
  );
}

interface LaneChoiceProps {
  index: number;
  lane: compare.Lane;
  canLeave: boolean;
}

function LaneChoice({ index, lane, canLeave }: LaneChoiceProps) {
  const [picker, setPicker] = useState<"none" | "model" | "voice">("none");
  const id = lane.model || defaultModel.value;
  const model = modelOf(id);
  const voice = voicesOf(model).find((each) => each.id === lane.voice);
  const pick = (change: Partial<compare.Lane>) => {
    compare.setLane(index, { ...lane, ...change });
    setPicker("none");
  };
  return (
    <li class="lane card" data-lane={index}>
      <header class="row">
        <h2>Voice {index + 1}</h2>
        {canLeave && (
          <button
            type="button"
            class="quiet small icon push"
            aria-label={`Remove voice ${index + 1}`}
            onClick={() => compare.removeLane(index)}
          >
            <Icon name="close" />
          </button>
        )}
      </header>
      <PickerButton id={`lane-${index}-model`} label="Model" onClick={() => setPicker("model")}>
        {id || "No model yet"}
      </PickerButton>
      <PickerButton id={`lane-${index}-voice`} label="Voice" onClick={() => setPicker("voice")}>
        {voice ? voice.name || voice.id : "The model's default"}
      </PickerButton>
      {picker === "model" && (
        <ModelPicker
          chosen={id}
          onPick={(picked) => pick({ model: picked, voice: "" })}
          onClose={() => setPicker("none")}
        />
      )}
      {picker === "voice" && (
        <VoicePicker
          model={model}
          chosen={lane.voice}
          onPick={(picked) => pick({ voice: picked })}
          onClose={() => setPicker("none")}
        />
      )}
    </li>
  );
}

function Result({ take, index }: { take: Take; index: number }) {
  const { isPlaying, positionS, bufferedS, seek, toggle } = useTransport(take.clip, () =>
    compare.hear(index),
  );
  const isHidden = compare.isHidden.value;
  const round = compare.round.value!;
  const hasAudio = take.clip.length > 0;
  const letter = compare.letter(index);
  // Read, so that the name is drawn again when the server has told it.
  const { voice, model } = take.spoken.value;
  return (
    <li
      class={round.vote === index ? "lane card voted" : "lane card"}
      data-result={index}
      data-state={stateShown(take, isHidden)}
    >
      <header class="row">
        <button
          type="button"
          class="stage-play icon"
          aria-label={`${isPlaying ? "Pause" : "Play"} ${letter}`}
          disabled={!hasAudio}
          onClick={toggle}
        >
          <Icon name={isPlaying ? "pause" : "play"} />
        </button>
        <div class="stage-title">
          <h2 class="ellipsis">
            {isHidden
              ? letter
              : voiceName(model || take.spec.model, voice || take.spec.voice) || "default voice"}
          </h2>
          <p class="muted small-text ellipsis">
            {isHidden ? "Hidden until you vote" : model || take.spec.model}
          </p>
        </div>
        <span class="push">
          {round.vote === index ? (
            <Chip tone="good">
              <Icon name="check" /> Your vote
            </Chip>
          ) : (
            <TakeStateChip take={take} isPlaying={isPlaying} isHidden={isHidden} />
          )}
        </span>
      </header>
      {hasAudio ? (
        <Waveform
          clip={take.clip}
          positionS={positionS}
          expectedS={estimateS(take.spec.input, take.spec.speed)}
          label={`Position in ${letter}`}
          onSeek={seek}
        />
      ) : (
        !isHidden && <Waiting take={take} />
      )}
      {take.state.value === "failed" &&
        take.failure.value &&
        (isHidden ? (
          // Its message may name the voice.
          <Notice tone="bad" title={hasAudio ? "The speech broke off." : "Nothing could be said."}>
            You will see why when you have voted.
          </Notice>
        ) : (
          <FailureNotice failure={take.failure.value} keptS={take.clip.durationS} />
        ))}
      {isHidden ? (
        <p class="muted small-text numbers">{durationText(take.clip.durationS)}</p>
      ) : (
        <FiguresStrip take={take} bufferedS={bufferedS} />
      )}
      {round.vote === null && (
        <button
          type="button"
          disabled={!hasAudio || !compare.canVote.value}
          onClick={() => compare.vote(index)}
        >
          Vote for {isHidden ? letter : "this one"}
          {!isHidden && <span class="visually-hidden"> ({letter})</span>}
        </button>
      )}
    </li>
  );
}

function Tallies() {
  const rows = Object.entries(compare.tallies.value).sort(
    ([, a], [, b]) => b.votes / b.rounds - a.votes / a.rounds,
  );
  if (!rows.length || compare.isHidden.value) return null;
  return (
    <section class="tallies card" aria-labelledby="tallies">
      <header class="row">
        <h2 id="tallies">Your votes</h2>
        <button type="button" class="quiet small push" onClick={compare.forgetTallies}>
          Begin anew
        </button>
      </header>
      <table>
        <thead>
          <tr>
            <th scope="col">Voice</th>
            <th scope="col" class="number">
              Votes
            </th>
            <th scope="col" class="number">
              Rounds
            </th>
          </tr>
        </thead>
        <tbody>
          {rows.map(([key, { votes, rounds }]) => (
            <tr key={key}>
              <th scope="row">{compare.nameOf(key)}</th>
              <td class="number numbers">{votes}</td>
              <td class="number numbers">{rounds}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
