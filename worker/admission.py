"""Decides how many utterances are spoken at once, who is next, and who has to come back later; knows no threads.

What a model costs is measured: work of the device for each second of audio and until the first audio, and seconds of
audio for each character. From that follows the share of the device that every listener needs in order not to run dry.
As long as these shares leave room, the next utterance begins; else it waits. What they leave over is for the first
audio of those who have heard nothing yet: when that takes too long, whoever comes is refused at once.

A burst is no overload: for a moment the wait may be longer. Only if it does not pass, the wait is kept short, until the
queue has been worked off (after CoDel, Nichols and Jacobson 2012, which so tells good queues from bad ones).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from worker.errors import Overloaded
from worker.rows import Row

HEADROOM = 0.9
"""Share of the device that is promised to listeners."""

AUDIO_S_PER_CHAR = 0.065
"""Slow English speech, until a model has been measured."""

LEAST_LEFT_S = 0.25
"""What an utterance that goes on is thought to have left to say at least, in seconds of audio."""

MEMORY_S = 30.0
"""Seconds of audio after which a measurement counts half."""

LEAST_FREE = 0.1
"""Share of the device that is thought to be left for those who have heard nothing, however many listen."""

FIRST_WEIGHT = 0.1
"""Least weight of one utterance in the mean work until the first audio."""

PATIENCE = 4
"""Nobody is refused who waits no longer than so many first audios of the model take."""

BURST_S = 2.0
"""How long a burst may last."""

BURST = 3
"""How many times longer than the limit a wait may be in a burst."""

WORKED_OFF = 0.25
"""A wait of so much of the limit is none: what comes next is a new burst."""

UNMEASURED = 4
"""Utterances that a model of unknown cost speaks at once."""


@dataclass(slots=True)
class Cost:
    """What a model was measured to need: sums in which the past fades.

    Attributes:
        work_s: Work of the device, in seconds of one lane.
        audio_s: Audio made by that work, in seconds.
        first_s: Work until an utterance makes its first audio, in seconds of one lane: the mean.
        num_firsts: Utterances that it was measured by.
        ended_s: Audio of utterances that have ended.
        num_chars: Their characters.
    """

    work_s: float = 0.0
    audio_s: float = 0.0
    first_s: float = 0.0
    num_firsts: int = 0
    ended_s: float = 0.0
    num_chars: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether enough audio was made to tell."""
        return self.audio_s > LEAST_LEFT_S

    @property
    def work_per_audio(self) -> float:
        """Seconds of work for each second of audio; 0 while nobody knows."""
        return self.work_s / self.audio_s if self.is_known else 0.0

    @property
    def audio_per_char(self) -> float:
        """Seconds of audio for each character."""
        return self.ended_s / self.num_chars if self.num_chars else AUDIO_S_PER_CHAR

    def note_work(self, work_s: float, audio_s: float) -> None:
        """Note work, and the audio that it made."""
        kept = 0.5 ** (audio_s / MEMORY_S)
        self.work_s = self.work_s * kept + work_s
        self.audio_s = self.audio_s * kept + audio_s

    def note_first(self, work_s: float) -> None:
        """Note the work that an utterance took until its first audio."""
        self.num_firsts += 1
        self.first_s += max(FIRST_WEIGHT, 1 / self.num_firsts) * (work_s - self.first_s)

    def note_end(self, num_chars: int, audio_s: float) -> None:
        """Note the length of an utterance that was spoken to its end."""
        kept = 0.5 ** (audio_s / MEMORY_S)
        self.num_chars = self.num_chars * kept + num_chars
        self.ended_s = self.ended_s * kept + audio_s


class Admission:
    """The bounds of one worker, and what its models were measured to need.

    Args:
        lanes: Threads that work at the same time.
        capacity: Most utterances at once, whatever they cost.
        queue_s: Longest wait for the device, in seconds, that is let stand.
        lead_s: How far a row may be ahead of its reader, in seconds of audio, before it rests. It can exceed this by
            what one step makes.
    """

    def __init__(self, *, lanes: int, capacity: int, queue_s: float, lead_s: float) -> None:
        self.capacity = capacity
        self._room = lanes * HEADROOM
        self._queue_s = queue_s
        self.lead_s = lead_s
        self._over_since: float | None = None
        self._costs: dict[str, Cost] = {}

    def cost(self, model: str) -> Cost:
        """What a model was measured to need."""
        return self._costs.setdefault(model, Cost())

    def can_keep_up(self, row: Row) -> bool:
        """Whether the device makes audio of that model as fast as it is heard."""
        return self.cost(row.work.model).work_per_audio <= self._room

    def rests(self, row: Row) -> bool:
        """Whether a row waits for its reader to catch up."""
        return row.unread_s >= self.lead_s

    def next(
        self, rows: Collection[Row], now: float, may: Callable[[Row], bool] = lambda _: True, most: int = 1
    ) -> list[Row]:
        """Choose who begins next, if anybody may: whoever's tenant is served least, then whoever came first.

        Args:
            rows: Who is here.
            now: On the monotonic clock.
            may: Whether whoever asks can take a row on.
            most: How many may begin.
        """
        waiting = [row for row in rows if not row.is_begun and not row.is_cancelled and may(row)]
        if not waiting:
            return []
        begun = [row for row in rows if row.is_begun and not row.is_ended]
        spoken = Counter(row.work.model for row in begun)
        served = Counter(row.work.tenant for row in begun)
        heard = [row for row in begun if not self.rests(row)]
        free = self._free(heard, now)
        chosen: list[Row] = []
        while len(chosen) < most:
            row = min(
                (row for row in waiting if spoken[row.work.model] < self._most(row)),
                key=lambda row: (
                    not row.work.goes_on,
                    not row.work.is_live and now < row.due_at(),
                    served[row.work.tenant],
                    row.submitted_at,
                ),
                default=None,
            )
            if not row or not (row.work.goes_on or not (heard or chosen) or self._share(row, now) <= free):
                break
            free -= self._held(row, now)
            spoken[row.work.model] += 1
            served[row.work.tenant] += 1
            waiting.remove(row)
            chosen.append(row)
        return chosen

    def wait_s(self, rows: Collection[Row], now: float, new: Row | None = None) -> float:
        """Guess how long one more would wait for its turn, in seconds.

        Before it come the first audio of all who have heard nothing yet, and all the work of those who may not begin;
        for that there is what the others leave over. If it may not begin beside those who speak, one of them has to
        end.

        Args:
            rows: Who is here.
            now: On the monotonic clock.
            new: Who comes; somebody who needs nothing if None.
        """
        free = self._free((row for row in rows if row.num_made), now)
        for_them = max(free, self._room * LEAST_FREE)
        spoken = Counter(row.work.model for row in rows if row.is_begun)
        work_s = 0.0
        for row in rows:
            if row.num_made:
                continue
            free -= self._share(row, now)
            if row.is_begun or (free >= 0 and spoken[row.work.model] < self._most(row)):
                spoken[row.work.model] += not row.is_begun
                work_s += self._first_s(row)
            else:
                work_s += self._work_s(row)
        begun = [row for row in rows if row.is_begun and not self.rests(row)]
        if new and begun and not (self._share(new, now) <= free and spoken[new.work.model] < self._most(new)):
            work_s += min(map(self._work_s, begun))
        return work_s / for_them

    def admit(self, row: Row, rows: Collection[Row], now: float) -> Row | None:
        """Let a row in.

        Args:
            row: Who comes.
            rows: Who is here.
            now: On the monotonic clock.

        Returns:
            A row of whoever has most of them waiting, if that has to go instead; None if there is room.

        Raises:
            Overloaded: There is no room, and nobody has more waiting than the tenant of this one.
        """
        before = [each for each in rows if each.work.is_live or each.num_made] if row.work.is_live else rows
        wait_s = self.wait_s(before, now, row)
        is_in_time = row.work.goes_on or wait_s - row.patience_s <= self._bound_s(row, wait_s, now)
        if len(rows) < self.capacity and is_in_time:
            return None
        waiting = [each for each in rows if not each.is_begun and not each.work.goes_on]
        by_tenant = Counter(each.work.tenant for each in waiting)
        heaviest = max(by_tenant, key=lambda tenant: by_tenant[tenant], default=row.work.tenant)
        if by_tenant[heaviest] > by_tenant[row.work.tenant] + 1:
            return max((each for each in waiting if each.work.tenant == heaviest), key=lambda each: each.submitted_at)
        raise self.refusal(row, rows, now)

    def _bound_s(self, row: Row, wait_s: float, now: float) -> float:
        """How long a row may wait that comes now, in seconds; with slow models everybody is more patient."""
        bound_s = max(self._queue_s, PATIENCE * self.cost(row.work.model).first_s / self._room)
        if wait_s <= WORKED_OFF * bound_s:
            self._over_since = None
        elif wait_s > bound_s and self._over_since is None:
            self._over_since = now
        is_burst = self._over_since is not None and now - self._over_since <= BURST_S
        return bound_s * (BURST if is_burst else 1)

    def refusal(self, row: Row, rows: Collection[Row], now: float) -> Overloaded:
        """Say that there is no room for a row, and when there will be."""
        wait_s = self.wait_s(rows, now, row)
        retry_after_s = max(1.0, wait_s, self._until_one_ends(rows))
        if len(rows) >= self.capacity:
            return Overloaded(f"all {self.capacity} places of this worker are taken", retry_after_s=retry_after_s)
        return Overloaded(
            f"this worker would need {wait_s:.1f} s to get to one more utterance, and that is too long to wait",
            retry_after_s=retry_after_s,
        )

    def _until_one_ends(self, rows: Collection[Row]) -> float:
        """How often one ends, when all are worked on: mean work of each, in seconds."""
        return sum(map(self._work_s, rows)) / len(rows) / self._room if rows else 0.0

    def _most(self, row: Row) -> int:
        most = self.capacity if row.work.slots is None else row.work.slots
        return most if self.cost(row.work.model).is_known else min(most, UNMEASURED)

    def _work_s(self, row: Row) -> float:
        """Work that a row still makes, in seconds of one lane: a guess."""
        return self._left_s(row) * self.cost(row.work.model).work_per_audio

    def _first_s(self, row: Row) -> float:
        """Work until its first audio that a silent row still makes, in seconds of one lane: a guess."""
        return max(0.0, self.cost(row.work.model).first_s - row.work_s)

    def _free(self, begun: Iterable[Row], now: float) -> float:
        """Lanes that nobody needs."""
        return self._room - sum(self._held(row, now) for row in begun if not self.rests(row))

    def _held(self, row: Row, now: float) -> float:
        """Lanes that are kept for a row: what it needs, or half of all where all of them would not be enough."""
        return self._share(row, now) if self.can_keep_up(row) else self._room / 2

    def _left_s(self, row: Row) -> float:
        """Audio that a row has still to make, in seconds: a guess."""
        expected_s = row.work.num_chars * self.cost(row.work.model).audio_per_char
        return max(expected_s - row.made_s, LEAST_LEFT_S)

    def _share(self, row: Row, now: float) -> float:
        """Lanes that a row needs from now to its end, so that its listener never runs dry."""
        return self._work_s(row) / (self._left_s(row) + row.lead_s(now))
