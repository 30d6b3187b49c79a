// The page: text, voice and speed in; speech out, played while it arrives.

import { Player } from "./player.js";

const $ = (id) => document.getElementById(id);
const PCM_RATE_HZ = 24000;

let speaking = null; // { abort, player } of the utterance under way.

function show(state, message) {
  $("status").dataset.state = state;
  $("status").textContent = message;
  const busy = state === "waiting" || state === "playing";
  $("speak").disabled = busy;
  $("stop").disabled = !busy;
}

async function loadVoices() {
  const answer = await fetch("/v1/audio/voices");
  const { voices } = await answer.json();
  $("voice").replaceChildren(
    // Custom voices belong to no model; this page speaks with those of the models.
    ...voices.filter((voice) => voice.model).map((voice) => {
      const option = new Option(`${voice.name} · ${voice.language} · ${voice.model}`, voice.id);
      option.dataset.model = voice.model;
      return option;
    }),
  );
  if (voices.length) show("idle", "Ready.");
  else show("failed", "No worker can be reached yet. Reload the page in a moment.");
}

async function speak() {
  stop();
  const mine = { abort: new AbortController(), player: new Player(PCM_RATE_HZ) };
  speaking = mine;
  performance.clearMarks();
  const clicked = performance.now();
  let begun = false;
  show("waiting", "Waiting for the first audio …");
  try {
    await mine.player.start();
    const voice = $("voice").selectedOptions[0];
    const answer = await fetch("/v1/audio/speech", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        input: $("text").value,
        model: voice?.dataset.model,
        voice: voice?.value,
        speed: Number($("speed").value),
        response_format: "pcm",
      }),
      signal: mine.abort.signal,
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    begun = true;
    const reader = answer.body.getReader();
    let firstMs = null;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      mine.player.feed(value);
      if (firstMs === null) {
        firstMs = performance.now() - clicked;
        show("playing", `Playing. First audio after ${firstMs.toFixed(0)} ms.`);
      }
    }
    performance.mark("stream-ended");
    await mine.player.played();
    if (speaking === mine) {
      const seconds = (mine.player.numSamples / PCM_RATE_HZ).toFixed(1);
      const gaps = mine.player.underruns ? ` ${mine.player.underruns} gaps.` : "";
      show("done", `Spoke ${seconds} s. First audio after ${firstMs.toFixed(0)} ms.${gaps}`);
    }
  } catch (error) {
    if (speaking === mine && error.name !== "AbortError") {
      show("failed", `${error.message}${begun ? " The speech was cut off." : ""}`);
    }
  } finally {
    if (speaking === mine) speaking = null;
    $("status").dataset.samples = mine.player.numSamples;
    await mine.player.close();
  }
}

function stop() {
  if (!speaking) return;
  speaking.abort.abort();
  speaking.player.close();
  speaking = null;
  show("stopped", "Stopped.");
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  speak();
});
$("stop").addEventListener("click", stop);
$("speed").addEventListener("input", () => {
  $("speed-shown").value = Number($("speed").value).toFixed(2);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
  if (event.key === "Escape") stop();
});

loadVoices().catch((error) => show("failed", `The voices could not be listed: ${error.message}`));
