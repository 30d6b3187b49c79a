/** What was said before in this browser: hear it again, take it up again, keep it as a file. */

import { useEffect, useRef, useState } from "preact/hooks";
import { SAMPLE_RATE_HZ } from "../services/api/speech";
import type { Clip } from "../services/player/clip";
import { voiceName } from "../store/catalogue";
import { restore } from "../store/draft";
import {
  clipOf,
  entries,
  forget,
  forgetAll,
  heldClip,
  MOST_KEPT,
  type Saved,
  trouble,
} from "../store/history";
import { go } from "../store/route";
import { pause, play, playback, prepare, resume, seekTo } from "../store/speech";
import { durationText } from "../store/text";
import { Download } from "./Download";
import { FiguresList } from "./FiguresStrip";
import { SearchField } from "./ModelList";
import { Snippets } from "./Snippets";
import { Transcript } from "./Transcript";
import { Chip } from "./ui/Chip";
import { Icon } from "./ui/Icon";
import { Notice } from "./ui/Notice";
import { Waveform } from "./Waveform";
import "./HistoryScreen.css";

export function HistoryScreen() {
  const [typed, setTyped] = useState("");
  const [isSure, setIsSure] = useState(false);
  const [openId, setOpenId] = useState("");
  const heading = useRef<HTMLHeadingElement>(null);
  const list = useRef<HTMLOListElement>(null);
  const all = entries.value;
  const wanted = typed.trim().toLowerCase();
  const shown = (all ?? []).filter(({ spec }) =>
    `${spec.input} ${spec.model} ${spec.voice}`.toLowerCase().includes(wanted),
  );
  const remove = (id: string) => {
    // The button goes with its entry, and the focus would go with it: it moves on before that.
    const titles = [...list.current!.querySelectorAll<HTMLElement>(".history-title")];
    const at = shown.findIndex((saved) => saved.id === id);
    const search = list.current!.parentElement!.querySelector<HTMLElement>("input[type=search]");
    (titles[at + 1] ?? titles[at - 1] ?? (typed ? search : null) ?? heading.current!).focus();
    void forget(id);
  };
  return (
    <>
      <header class="screen-head">
        <h1 ref={heading} tabIndex={-1}>
          History
        </h1>
        {all !== null && all.length > 0 && (
          <button
            type="button"
            class="small danger push"
            onBlur={() => setIsSure(false)}
            onClick={() => {
              if (isSure) {
                heading.current!.focus();
                void forgetAll();
              }
              setIsSure(!isSure);
            }}
          >
            <Icon name="trash" /> {isSure ? "Delete all of it: sure?" : "Delete all"}
          </button>
        )}
        <p>Kept in this browser only, the last {MOST_KEPT} takes.</p>
      </header>
      {trouble.value && <Notice tone="warn" title={trouble.value} />}
      {all !== null && (all.length > 3 || typed) && (
        <SearchField label="Search the history" value={typed} onInput={setTyped} />
      )}
      <ol class="history" ref={list}>
        {shown.map((saved) => (
          <Entry
            key={saved.id}
            saved={saved}
            isOpen={saved.id === openId}
            onToggle={() => setOpenId(saved.id === openId ? "" : saved.id)}
            onRemove={() => remove(saved.id)}
          />
        ))}
      </ol>
      {all !== null && !all.length && (
        <div class="empty">
          <Icon name="again" />
          <p>Nothing has been said yet.</p>
          <a href="#/speak">Say something</a>
        </div>
      )}
      {all !== null && all.length > 0 && !shown.length && <p class="muted">Nothing fits that.</p>}
    </>
  );
}

interface EntryProps {
  saved: Saved;
  isOpen: boolean;
  onToggle: () => void;
  onRemove: () => void;
}

/** The entry that is to be heard: what was asked for before it, and has not been read yet, is not. */
let wantedId = "";

function Entry({ saved, isOpen, onToggle, onRemove }: EntryProps) {
  useOpened(saved, isOpen);
  const clip = heldClip(saved.id);
  const now = playback.value;
  const isMine = clip !== null && now.clip === clip;
  const isPlaying = isMine && now.state === "playing";
  const positionS = isMine ? now.position / SAMPLE_RATE_HZ : 0;
  const { spec } = saved;
  const toggle = () => {
    if (isPlaying) pause();
    else if (isMine && now.state === "paused") resume();
    else void hear();
  };
  const hear = async (fromS = 0) => {
    prepare(); // Before anything is awaited: sound is allowed only from within the click.
    wantedId = saved.id;
    const read = await clipOf(saved);
    if (read && wantedId === saved.id) play(read, Math.round(fromS * SAMPLE_RATE_HZ));
  };
  const seek = (seconds: number) => (isMine ? seekTo(seconds) : void hear(seconds));
  return (
    <li class="history-entry card" data-id={saved.id}>
      <div class="history-head">
        <button
          type="button"
          class="icon"
          aria-label={isPlaying ? "Pause" : `Play: ${spec.input.slice(0, 60)}`}
          onClick={toggle}
        >
          <Icon name={isPlaying ? "pause" : "play"} />
        </button>
        <button type="button" class="history-title" aria-expanded={isOpen} onClick={onToggle}>
          <span class="ellipsis">{spec.input}</span>
          <span class="muted small-text numbers ellipsis">
            {[
              voiceName(spec.model, spec.voice),
              durationText(saved.durationS),
              new Date(saved.createdAt).toLocaleString(undefined, {
                dateStyle: "medium",
                timeStyle: "short",
              }),
              spec.model,
            ]
              .filter(Boolean)
              .join(" · ")}
          </span>
        </button>
        {saved.outcome === "failed" && <Chip tone="bad">Broken off</Chip>}
        {saved.outcome === "stopped" && <Chip>Stopped</Chip>}
        <Icon name="chevron" />
      </div>
      {isOpen && (
        <div class="history-body">
          <div class="history-wave">
            {clip && (
              <Waveform clip={clip} positionS={positionS} label="Position in the speech" onSeek={seek} />
            )}
          </div>
          <Transcript
            text={spec.input}
            marks={saved.marks}
            positionMs={1000 * positionS}
            language={spec.language}
            onSeek={seek}
          />
          {saved.reason && <p class="muted small-text">{saved.reason}</p>}
          <FiguresList figures={saved.figures} durationS={saved.durationS} />
          <div class="row">
            <Download samples={() => clip!.samples} name={spec.voice || "speech"} isPartial={!clip} />
            <Snippets spec={spec} />
            <button
              type="button"
              class="quiet small"
              onClick={() => {
                restore(spec);
                go("speak");
              }}
            >
              <Icon name="edit" /> Take up again
            </button>
            <button
              type="button"
              class="quiet small danger push"
              onClick={() => {
                if (isPlaying) pause(); // Nothing on this screen could do so later.
                onRemove();
              }}
            >
              <Icon name="trash" /> Delete
            </button>
          </div>
        </div>
      )}
    </li>
  );
}

/** Reads the audio of an entry that is open, and holds it as long as that. */
function useOpened(saved: Saved, isOpen: boolean): void {
  const [, setClip] = useState<Clip | null>(null);
  useEffect(() => {
    if (!isOpen) return;
    let isWanted = true;
    void clipOf(saved).then((clip) => isWanted && setClip(clip));
    return () => {
      isWanted = false;
      setClip(null);
    };
  }, [saved.id, isOpen]);
}
