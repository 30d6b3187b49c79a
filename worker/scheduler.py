"""Shares the device between utterances: what goes through it next, and together with what; for the listeners.

A row is an utterance on its way through the device. It waits at a stage of its model for the device to work on it. At
each turn a thread takes the most urgent row and with it others that wait at the same stage for work of the same size,
and has the stage run once for all of them. Most urgent is the row whose listener is about to run dry; then one that
has made nothing; then, of those with audio in hand, the one that runs dry first. A row that is far ahead of its reader
rests until the reader has caught up, so a slow reader holds back its own row and no other. A cancelled row ends at the
next turn.

A GPU has one thread. A CPU has one for each core: measured, two threads of one core each make more audio than one
thread of two. They run what is re-entrant; what is not, the first of them runs alone.

Knows neither gRPC nor engines: it drives generators of blocks and calls.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from worker.admission import Admission
from worker.changes import Changes
from worker.errors import Draining, EngineFailure
from worker.rows import Row, Work

HEAD_START_S = 0.004
"""The most that the device waits for the first audio to be sent before it goes on. Otherwise the Python parts of the
next step hold the interpreter's lock against the event loop, and the listener waits 2 ms longer."""

LONGEST_GUARD_S = 0.25
"""A listener who has more than this in hand never goes before one who has heard nothing."""

Observer = Callable[[str, str, int, float], None]
"""Told after every run: id of the model, name of the stage, rows in it, seconds that it took."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one thread does next.

    Attributes:
        rows: Rows that wait at the same stage for work of the same size; or those that begin, end or are cancelled.
        size: That size.
        threads: Cores that the work may use.
    """

    rows: Sequence[Row]
    size: Hashable = None
    threads: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Broken:
    """Stands for the size of work whose stage could not tell it.

    Attributes:
        error: Why.
    """

    error: Exception


class Scheduler:
    """The threads of the device and the rows that wait for them.

    Args:
        admission: Who may begin.
        changes: Notified, on the event loop, when a row comes, begins or ends.
        lanes: Threads.
        starts: Most rows that begin in one turn: where work is done in batches, those who come together stay together.
        niceness: How much the threads stand back behind others of the process, in the system's terms.
        use_threads: Called before work with the number of cores that it may use.
        observe: Told after every run.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        changes: Changes,
        lanes: int = 1,
        starts: int = 1,
        niceness: int = 0,
        use_threads: Callable[[int], None] = lambda _: None,
        observe: Observer = lambda *_: None,
    ) -> None:
        self.draining = False
        self._admission = admission
        self._changes = changes
        self._starts = starts
        self._niceness = niceness
        self._use_threads = use_threads
        self._observe = observe
        self._rows: list[Row] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._guard_s = 0.0
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"device-{lane}" if lane else "device", daemon=True)
            for lane in range(lanes)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 60.0) -> bool:
        """End the threads after the runs that they are in.

        Args:
            timeout_s: How long to wait for these.

        Returns:
            Whether they have ended; a run that hangs cannot be stopped.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def capacity(self) -> int:
        """Most rows at once."""
        return self._admission.capacity

    @property
    def active(self) -> int:
        """Rows that the device has taken up and not finished."""
        with self._changed:
            return sum(row.is_begun for row in self._rows)

    @property
    def queued(self) -> int:
        """Rows that wait for their first step."""
        with self._changed:
            return sum(not row.is_begun for row in self._rows)

    @property
    def expected_wait_s(self) -> float:
        """How long one more row would wait for its first step: a guess."""
        with self._changed:
            return self._admission.wait_s(self._rows, time.monotonic())

    def submit(self, work: Work, on_end: Callable[[], None] = lambda: None) -> Row:
        """Queue an utterance.

        Args:
            work: The utterance.
            on_end: Called on the event loop when the device has let go of it; not if this raises.

        Raises:
            Draining: The worker takes nothing new.
            Overloaded: There is no room.
        """
        if self.draining:
            raise Draining("this worker is shutting down; ask another one", retry_after_s=1.0)
        row = Row(work, self._on_read, self._on_cancel, on_end)
        with self._changed:
            instead = self._admission.admit(row, self._rows, row.submitted_at)
            if instead:
                refusal = self._admission.refusal(instead, self._rows, row.submitted_at)
                self._rows.remove(instead)
            self._rows.append(row)
            # One thread will do where any will: each that wakes in vain takes time from those that work.
            self._changed.notify(len(self._threads) if row.needs_device_thread() else 1)
        if instead:
            instead.fail(refusal)
            instead.on_end()
        self._changes.notify()
        return row

    def _on_read(self, unread_s: float) -> None:
        """Let the threads look again if the row rested, before its reader took some of what it had not read."""
        if unread_s >= self._admission.lead_s:
            with self._changed:
                self._changed.notify_all()

    def _on_cancel(self, row: Row) -> None:
        """Have a row given up that nobody wants any more; called on the event loop."""
        with self._changed:
            is_over = row.is_cancelled and not row.is_begun and row in self._rows
            if is_over:
                self._rows.remove(row)
            self._changed.notify_all()
        if is_over:
            row.close()
            row.on_end()
            self._changes.notify()

    def _run(self, lane: int) -> None:
        if self._niceness and sys.platform == "linux":  # Where priorities belong to threads.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        while turn := self._next(lane):
            started = time.monotonic()
            self._work(turn)
            with self._changed:
                self._guard_s += 0.1 * (time.monotonic() - started - self._guard_s)
                for row in turn.rows:
                    row.is_running = False
                    if row.is_ended:
                        self._let_go(row)
                self._changed.notify_all()

    def _let_go(self, row: Row) -> None:
        self._rows.remove(row)
        if row.num_made and not row.is_cancelled:
            self._admission.cost(row.work.model).note_end(row.work.num_chars, row.made_s)
        row.loop.call_soon_threadsafe(row.on_end)
        row.loop.call_soon_threadsafe(self._changes.notify)

    def _work(self, turn: Turn) -> None:
        """Do what a turn says."""
        first = turn.rows[0]
        made_s = sum(row.made_s for row in turn.rows)
        silent = [row for row in turn.rows if not row.num_made]
        started = time.monotonic()
        if not first.call:
            for row in turn.rows:
                row.advance()
        elif first.is_cancelled:
            first.close()
        else:
            self._use_threads(turn.threads)
            self._run_stage(turn)
        work_s = (time.monotonic() - started) * turn.threads
        cost = self._admission.cost(first.work.model)
        cost.note_work(work_s, sum(row.made_s for row in turn.rows) - made_s)
        for row in turn.rows:
            row.work_s += work_s / len(turn.rows)
        for row in silent:
            if row.num_made:
                cost.note_first(row.work_s)

    def _run_stage(self, turn: Turn) -> None:
        """Run a stage, and let its rows go on. Where it fails for several, each is tried alone."""
        call = turn.rows[0].call
        assert call
        if isinstance(turn.size, Broken):
            turn.rows[0].fail(turn.size.error)
            return
        items = [row.call.item for row in turn.rows if row.call]
        started = time.monotonic()
        try:
            results = list(call.stage.run(items, turn.size))
            if len(results) != len(items):
                raise EngineFailure(f"the stage {call.stage.name!r} gave {len(results)} results for {len(items)} items")
        except BaseException as error:
            if len(items) == 1:
                turn.rows[0].fail(error)
            else:
                for row in turn.rows:
                    self._run_stage(Turn([row], turn.size, turn.threads))
            return
        run_s = time.monotonic() - started
        self._observe(turn.rows[0].work.model, call.stage.name, len(items), run_s)
        firsts = []
        for row, result in zip(turn.rows, results, strict=True):
            row.note_run(call.stage.name, run_s, len(items))
            if row.advance(result):
                firsts.append(row)
        if len(firsts) == 1:
            firsts[0].wait_for_first_audio(HEAD_START_S)

    def _next(self, lane: int) -> Turn | None:
        """Wait for work that this thread may do, and take it up; None when the thread shall end."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                able = [row for row in self._rows if row.is_begun and self._may_go_on(row, lane)]
                new = self._admission.next(
                    self._rows, now, lambda row: not (lane and row.needs_device_thread()), self._starts
                )
                if able or new:
                    first = min([*able, *new[:1]], key=lambda row: self._urgency(row, now))
                    turn = self._turn(first, able, now) if first.is_begun else self._begin(new, now)
                    for row in turn.rows:
                        row.is_running = True
                    return turn
                self._changed.wait()
        return None

    def _may_go_on(self, row: Row, lane: int) -> bool:
        if row.is_running or (lane and row.needs_device_thread()):
            return False
        return row.is_cancelled or not self._admission.rests(row)

    def _urgency(self, row: Row, now: float) -> tuple[float, ...]:
        """What rows are served by, the least first."""
        if row.is_cancelled:
            return (0,)
        due_at = row.due_at()
        if row.num_made and due_at < now + min(2 * self._guard_s, LONGEST_GUARD_S) and self._admission.can_keep_up(row):
            return (1, due_at)
        if not row.num_made and (row.work.is_live or due_at <= now):
            # Where work is done in batches, who comes later catches up with those that he can then go with.
            return (2, row.num_runs if self._starts > 1 else not row.is_begun, row.submitted_at)
        return (3, due_at)

    def _turn(self, first: Row, able: Sequence[Row], now: float) -> Turn:
        """Put together what goes with the most urgent row."""
        if first.is_cancelled:
            return Turn([first])
        assert first.call
        stage, size = first.call.stage, _size(first, now)
        rows = [first]
        if stage.limit > 1:
            others = [row for row in able if row is not first and row.call and row.call.stage is stage]
            for row in sorted(others, key=lambda row: self._urgency(row, now)):
                if len(rows) == stage.limit:
                    break
                if not row.is_cancelled and _size(row, now) == size:
                    rows.append(row)
        wanting = len(able) + sum(row.is_running for row in self._rows)
        cores = len(self._threads) // wanting if stage.is_reentrant else len(self._threads)
        return Turn(rows, size, max(1, cores) if stage.takes_threads else 1)

    def _begin(self, rows: Sequence[Row], now: float) -> Turn:
        """Take up the next rows."""
        for row in rows:
            row.is_begun, row.queue_s = True, now - row.submitted_at
            row.loop.call_soon_threadsafe(self._changes.notify)
        return Turn(rows)


def _size(row: Row, now: float) -> Hashable:
    """Ask what the work that a row waits for would be run as."""
    assert row.call
    try:
        size = row.call.stage.size(row.call.item, row.lead_s(now))
        hash(size)
    except Exception as error:
        return Broken(error)
    return size
