"""Listens to the tone engine as a musician does: which notes, how long each; knows no client.

A client may decode, resample and cut what it is sent, and codecs add a lead-in, so samples cannot be compared. Notes
can: one that is missing, cut short, out of order or out of tune shows.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import av
import numpy as np

HOP_S = 0.01
WINDOW_S = 0.04
SHORTEST_S = 0.05
"""Anything shorter is the blur between two notes, or a codec's lead-in."""

QUIET = 0.05
OUT_OF_TUNE = 0.03
BLUR_S = 0.05
"""How far the length of a note may be off: each of its ends is found to within half a window."""

LEAD_IN_S = 0.15
"""How much longer than the speech itself the whole may be: a codec's delay and its last frames."""


class Note(NamedTuple):
    pitch_hz: float
    duration_s: float


def decoded(audio: bytes) -> tuple[np.ndarray, int]:
    """Decode a file of any format.

    Returns:
        float32 [S] in [-1, 1], mono, and its rate in Hz.
    """
    with av.open(io.BytesIO(audio)) as container:
        frames = list(container.decode(audio=0))
    planar = [frame.to_ndarray() for frame in frames]
    samples = np.concatenate([part[0] if part.shape[0] == 1 else part.mean(axis=0) for part in planar])
    scale = 32768 if samples.dtype == np.int16 else 1
    assert {len(frame.layout.channels) for frame in frames} == {1}
    return (samples / scale).astype(np.float32), frames[0].sample_rate


def pcm16(audio: bytes) -> np.ndarray:
    """Read headerless s16le; float32 [S] in [-1, 1]."""
    return (np.frombuffer(audio, "<i2") / 32768).astype(np.float32)


def notes(samples: np.ndarray, rate_hz: int) -> list[Note]:
    """Hear the notes; silence is none.

    Args:
        samples: float [S] in [-1, 1].
        rate_hz: Their rate.
    """
    hop, window = round(HOP_S * rate_hz), round(WINDOW_S * rate_hz)
    padded = np.pad(samples, window // 2)
    heard: list[list[float]] = []
    for start in range(0, len(samples), hop):
        part = padded[start : start + window]
        pitch_hz = 0.0
        if np.sqrt(np.mean(part**2)) > QUIET:
            spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), rate_hz))  # one bin a hertz
            pitch_hz = float(np.argmax(spectrum))
        if heard and abs(pitch_hz - np.median(heard[-1])) <= OUT_OF_TUNE * pitch_hz:
            heard[-1].append(pitch_hz)
        else:
            heard.append([pitch_hz])
    long_enough = [run for run in heard if len(run) * HOP_S >= SHORTEST_S]
    return [Note(float(np.median(run)), len(run) * HOP_S) for run in long_enough if np.median(run)]


def assert_same(samples: np.ndarray, rate_hz: int, pcm: bytes, dropped_s: float = 0.0) -> None:
    """Check that a client has heard what the API's PCM says, all of it and no more.

    Args:
        samples: float [S] in [-1, 1], what the client has.
        rate_hz: Their rate.
        pcm: The same request's answer as `pcm`.
        dropped_s: How much the client drops by itself, in seconds.
    """
    expected = notes(pcm16(pcm), 24_000)
    heard = notes(samples, rate_hz)
    assert len(heard) == len(expected), (heard, expected)
    for note, wanted in zip(heard, expected, strict=True):
        assert abs(note.pitch_hz / wanted.pitch_hz - 1) <= OUT_OF_TUNE, (heard, expected)
        assert abs(note.duration_s - wanted.duration_s) <= BLUR_S, (heard, expected)
    assert 0 <= round(len(samples) / rate_hz - len(pcm) / 2 / 24_000 + dropped_s, 6) <= LEAD_IN_S
