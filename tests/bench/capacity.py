"""Finds how much a stack can carry: the highest load at which every listener hears all, without a gap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.listener import Answer, percentile, underruns

STEP = 1.25
"""By which loads differ that are tried one after the other."""

MOST_TRIES = 5

LONGEST_TTFA_S = 0.5
"""Most that p95 of the first audio may be: beyond the capacity a queue grows, though for seconds nobody is refused."""


@dataclass(frozen=True)
class Tried:
    """A load, and what came of it.

    Attributes:
        level: Requests each second, or talkers.
        answers: To its requests.
    """

    level: float
    answers: Sequence[Answer]

    @property
    def is_carried(self) -> bool:
        """Whether every request was spoken, no listener ran dry, and the server kept up."""
        ttfas_s = [answer.ttfa_s for answer in self.answers if answer.is_spoken]
        return self.good_share == 1.0 and percentile(ttfas_s, 0.95) <= LONGEST_TTFA_S

    @property
    def good_share(self) -> float:
        """Share of the requests that were spoken without a gap."""
        good = sum(answer.is_spoken and not underruns(answer.chunks) for answer in self.answers)
        return good / len(self.answers) if self.answers else 0.0

    @property
    def streams(self) -> float:
        """Talkers who heard all, without a gap."""
        return self.level * self.good_share


def search(attempt: Callable[[float], Sequence[Answer]], guess: float) -> list[Tried]:
    """Try loads, up or down from a guess by `STEP`, until one is carried and the next is not.

    Args:
        attempt: Loads the stack so much; gives the answers.
        guess: The load to begin with.

    Returns:
        All that was tried, by level. `best` finds the highest that was carried.
    """
    tried = [Tried(guess, attempt(guess))]
    went_up = tried[0].is_carried
    while len(tried) < MOST_TRIES:
        level = tried[-1].level * STEP if went_up else tried[-1].level / STEP
        tried.append(Tried(level, attempt(level)))
        if tried[-1].is_carried != went_up:
            break
    return sorted(tried, key=lambda each: each.level)


def best(tried: Sequence[Tried]) -> Tried:
    """Give the highest load that was carried; where none was, the lowest that was tried."""
    return max((each for each in tried if each.is_carried), key=lambda each: each.level, default=tried[0])
