"""Turns one utterance into a stream of PCM blocks: segments, pauses between them, marks; knows no threads, no gRPC.

The result is a plain generator: of blocks, and of calls whose results it is sent (`worker.engines.stages`). Whoever
drives it decides who is served when and together with whom, and closing it ends the work there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from worker.engines.base import Model, Samples, Settings
from worker.engines.stages import STEPS, Call, Speech, stepped
from worker.errors import EngineFailure, UnspeakableText
from worker.text.segment import segment


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a segment is spoken.

    Attributes:
        start: First code point of the segment in the input.
        stop: The code point after its last one.
        first_sample: Where it begins in the stream.
        end_sample: The sample after its last one; None while it is being spoken.
    """

    start: int
    stop: int
    first_sample: int
    end_sample: int | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """What comes next.

    Attributes:
        samples: float32 [S]; S is 0 in the last block, which only carries marks.
        marks: Segments that begin with this block, and those that have ended since the last one.
        is_cut: In the last block, whether the model had run away in some segment, which was cut at its limit.
        pause_s: In the last block, the pause that the end of the text asks for before anything else.
    """

    samples: Samples
    marks: tuple[Mark, ...] = ()
    is_cut: bool = False
    pause_s: float = 0.0


Utterance = Generator[Block | Call[Any, Any], Any, None]
"""An utterance while it is spoken: its blocks in order, and calls whose results are sent to it."""


def synthesize(
    model: Model,
    text: str,
    settings: Settings,
    segments_before: int = 0,
    on_segment: Callable[[int], None] = lambda _: None,
) -> Utterance:
    """Speak an utterance.

    Args:
        model: Who speaks.
        text: The input, as sent.
        settings: How.
        segments_before: Segments of the same text that were spoken before.
        on_segment: Told the number of each segment when it begins, on the thread that has the utterance in hand.

    Yields:
        Blocks in order, at the model's rate, and calls of the model's stages.

    Raises:
        UnspeakableText: The voice cannot say the text; always before the first sound.
        EngineFailure: The engine made what are no samples.
    """
    model.check(text, settings.voice)
    voice = model.find_voice(settings.voice)
    assert voice
    rate_hz = model.card.sample_rate_hz
    total, pause_s = 0, 0.0
    marks: list[Mark] = []
    is_cut = False
    limits = model.limits
    pieces = segment(text, voice.language, first=limits.first, longest=limits.longest, joins=limits.joins)
    for index, piece in enumerate(pieces, segments_before):
        on_segment(index)
        spoken: Mark | None = None
        left = round(limits.longest_s(piece.text, settings.speed) * rate_hz)
        speech = model.speak(piece.text, index, settings)
        speech = cast("Speech", speech) if model.is_staged else stepped(cast("Iterator[Samples]", speech))
        while (samples := (yield from _next(speech))) is not None:
            _insist(samples)
            runs_away = len(samples) > left
            samples = samples[:left]
            left -= len(samples)
            if samples.size and spoken is None:
                # The pause goes before the next sound and not after the last, so that speech ends when it ends.
                pause = np.zeros(round(pause_s / settings.speed * rate_hz), np.float32) if total else samples[:0]
                spoken = Mark(piece.start, piece.stop, total + len(pause))
                marks.append(spoken)
                samples = np.concatenate([pause, samples])
            if samples.size:
                total += len(samples)
                yield Block(samples, tuple(marks))
                marks.clear()
            if runs_away:
                is_cut = True
                break
        if spoken:
            pause_s = piece.ends_at.value
            marks.append(replace(spoken, end_sample=total))
        else:
            yield Call(STEPS, iter(()))  # Others get a turn, and it can be cancelled.
    if not total:
        raise UnspeakableText(f"the voice {settings.voice!r} has no way to say {text.strip()[:40]!r}", field="input")
    yield Block(np.zeros(0, np.float32), tuple(marks), is_cut, pause_s / settings.speed)


def _next(speech: Speech) -> Generator[Call[Any, Any], Any, Samples | None]:
    """Give the next samples of a segment; None at its end."""
    result: Any = None
    while True:
        try:
            made = speech.send(result)
        except StopIteration:
            return None
        if not isinstance(made, Call):
            return made
        result = yield made


def _insist(samples: Samples) -> None:
    if samples.ndim != 1 or samples.dtype != np.float32 or not np.isfinite(samples).all():
        raise EngineFailure(f"the engine made no finite mono float32 samples, but {samples.dtype} {samples.shape}")
