"""The clock of a listener: what somebody hears who plays a response at real time. Knows no network and no engine.

Time to first audio counts from when the request was due, not from when the client got round to sending it: a client
that is late must not make the server look early.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

JITTER_S = 0.02
"""What a listener holds back before playing: a client on a busy machine is late by some milliseconds itself."""


@dataclass(frozen=True)
class Answer:
    """A request, and what came of it. Times are in seconds since the load began.

    Attributes:
        due_s: When it was to be sent.
        sent_s: When it was.
        status: Of the response; 0 if there was none in time.
        retry_after: Header of that name; empty if there is none.
        answered_s: When the head of the response had come.
        ended_s: When all had come, or the connection was lost.
        is_complete: Whether all had come.
        chunks: When audio came, and how many seconds of it.
    """

    due_s: float
    sent_s: float
    status: int = 0
    retry_after: str = ""
    answered_s: float = 0.0
    ended_s: float = 0.0
    is_complete: bool = False
    chunks: Sequence[tuple[float, float]] = field(default=())

    @property
    def is_spoken(self) -> bool:
        """Whether it was answered with audio, to the end."""
        return self.status == 200 and self.is_complete and bool(self.chunks)

    @property
    def ttfa_s(self) -> float:
        """Time to first audio, in seconds."""
        return self.chunks[0][0] - self.due_s

    @property
    def audio_s(self) -> float:
        """Audio that came, in seconds."""
        return sum(audio_s for _, audio_s in self.chunks)

    @property
    def rtf(self) -> float:
        """Real-time factor of the whole, waiting included."""
        return (self.ended_s - self.due_s) / self.audio_s


def underruns(chunks: Iterable[tuple[float, float]], jitter_s: float = JITTER_S) -> list[float]:
    """Play chunks at real time, from `jitter_s` after the first.

    Args:
        chunks: When each came, and how many seconds of audio it has.
        jitter_s: What the listener holds back at the start.

    Returns:
        How long the listener heard nothing each time that it ran dry, in seconds.
    """
    dry_s = -math.inf
    silences = []
    for at_s, audio_s in chunks:
        if dry_s == -math.inf:
            dry_s = at_s + jitter_s
        elif at_s > dry_s:
            silences.append(at_s - dry_s)
            dry_s = at_s
        dry_s += audio_s
    return silences


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that `share` of all do not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def in_window(answers: Iterable[Answer], start_s: float, stop_s: float) -> float:
    """Count the audio that came from `start_s` to `stop_s`, in seconds."""
    return sum(audio_s for answer in answers for at_s, audio_s in answer.chunks if start_s <= at_s < stop_s)


def summary(answers: Sequence[Answer]) -> dict[str, float]:
    """Sum up what listeners heard: counts, percentiles of the first audio in milliseconds, underruns.

    What failed is counted by status too; 0 is no answer in time, and 200 one that broke off.
    """
    spoken = [answer for answer in answers if answer.is_spoken]
    refused = [answer for answer in answers if answer.status == 503]
    failed = [answer for answer in answers if not answer.is_spoken and answer.status != 503]
    ttfas_ms = [1000 * answer.ttfa_s for answer in spoken]
    silences = [underruns(answer.chunks) for answer in spoken]
    return {
        "requests": len(answers),
        "spoken": len(spoken),
        "refused": len(refused),
        "failed": len(failed),
        **{f"status_{status}": count for status, count in Counter(answer.status for answer in failed).items()},
        "ttfa_p50_ms": round(percentile(ttfas_ms, 0.5), 1),
        "ttfa_p95_ms": round(percentile(ttfas_ms, 0.95), 1),
        "ttfa_p99_ms": round(percentile(ttfas_ms, 0.99), 1),
        "audio_p50_s": round(percentile([answer.audio_s for answer in spoken], 0.5), 2),
        "rtf_p50": round(percentile([answer.rtf for answer in spoken], 0.5), 3),
        "dry_streams": sum(map(bool, silences)),
        "underruns": sum(map(len, silences)),
        "underrun_s": round(sum(map(sum, silences)), 3),
    }
