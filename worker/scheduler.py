"""Shares the device between utterances: one thread, one step at a time, for the listener who needs it most.

A row is an utterance on its way through the device. At each turn the thread advances the row whose listener runs dry
first: a row that has made nothing is due since it was submitted, any other when the audio it has made will have been
played, counted from its first block. A row that is ahead of its reader by `lead_s` rests until the reader has caught
up, so a slow reader holds back its own row and no other. A cancelled row ends at the next turn.

Knows neither gRPC nor engines: it drives generators of blocks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from typing import Self

import structlog

from worker.changes import Changes
from worker.errors import Draining, EngineFailure, Overloaded, WorkerError
from worker.synthesis import Block

HEAD_START_S = 0.004
"""The most that the device waits for the first audio to be sent before it goes on. Otherwise the Python parts of the
next step hold the interpreter's lock against the event loop, and the listener waits 2 ms longer."""

log = structlog.get_logger(__name__)


class Row:
    """One utterance on its way through the device; made by `Scheduler.submit`.

    Iterate over it for its blocks, as they are made; a `WorkerError` ends the iteration if the row failed. It is a
    context manager too: leaving the context cancels what is left, at once if the device has not taken it up, else when
    the step that it is in has ended. Nobody waits for that; `on_end` tells.

    Attributes:
        begun: Whether it has had its first step.
        queue_s: Time from submission to its first step, in seconds.
        busy_s: Time that the device has worked on it, in seconds.
    """

    def __init__(
        self, scheduler: Scheduler, steps: Generator[Block], sample_rate_hz: int, on_end: Callable[[], None]
    ) -> None:
        self.begun = False
        self.queue_s = 0.0
        self.busy_s = 0.0
        self._scheduler = scheduler
        self._steps = steps
        self._rate_hz = sample_rate_hz
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._submitted_at = time.monotonic()
        self._first_block_at = 0.0
        self._made = 0  # Samples; written by the device thread alone.
        self._taken = 0  # Samples; written by the event loop alone.
        self._cancelled = False
        self._first_audio_sent = threading.Event()
        self._results: asyncio.Queue[Block | WorkerError | None] = asyncio.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._first_audio_sent.set()
        self._scheduler.cancel(self)

    def first_audio_sent(self) -> None:
        """Tell the device that the first audio is on the wire."""
        self._first_audio_sent.set()

    async def __aiter__(self) -> AsyncIterator[Block]:
        while (result := await self._results.get()) is not None:
            if isinstance(result, WorkerError):
                raise result
            yield result
            # Only now is the block on its way: the reader asked for the next one.
            self._taken += len(result.samples)
            self._scheduler.wake()

    def _deadline(self) -> float:
        """When the listener runs dry, on the monotonic clock."""
        if self._cancelled:
            return 0.0
        if not self._made:
            return self._submitted_at
        return self._first_block_at + self._made / self._rate_hz

    def _lead_s(self) -> float:
        return (self._made - self._taken) / self._rate_hz

    def _step(self) -> bool:
        """Advance by one step on the device thread; False when the row has ended."""
        if self._cancelled:
            self._steps.close()
            return False
        started = time.monotonic()
        result: Block | WorkerError | None
        try:
            result = next(self._steps, None)
        except WorkerError as error:
            result = error
        except BaseException as error:
            log.exception("engine failed")
            result = EngineFailure(f"the engine failed: {type(error).__name__}: {error}")
        now = time.monotonic()
        self.busy_s += now - started
        is_first_audio = False
        if isinstance(result, Block) and len(result.samples):
            is_first_audio = not self._made
            self._first_block_at = self._first_block_at or now
            self._made += len(result.samples)
        self._loop.call_soon_threadsafe(self._results.put_nowait, result)
        if is_first_audio:
            self._first_audio_sent.wait(HEAD_START_S)
        return isinstance(result, Block)


class Scheduler:
    """The device thread and the rows that wait for it.

    Args:
        capacity: Most rows at once.
        lead_s: How far a row may be ahead of its reader, in seconds of audio, before it rests. It can exceed this by
            what one step makes.
        changes: Notified, on the event loop, when a row comes, begins or ends.
    """

    def __init__(self, *, capacity: int, lead_s: float, changes: Changes) -> None:
        self.capacity = capacity
        self.draining = False
        self._lead_s = lead_s
        self._changes = changes
        self._rows: list[Row] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._mean_row_s = 1.0
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        """Start the device thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 60.0) -> bool:
        """End the device thread after the step that it is in.

        Args:
            timeout_s: How long to wait for that step.

        Returns:
            Whether it has ended; a step that hangs cannot be stopped.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def active(self) -> int:
        """Rows that the device has taken up and not finished."""
        with self._changed:
            return sum(row.begun for row in self._rows)

    @property
    def queued(self) -> int:
        """Rows that wait for their first step."""
        with self._changed:
            return sum(not row.begun for row in self._rows)

    def submit(self, steps: Generator[Block], sample_rate_hz: int, on_end: Callable[[], None] = lambda: None) -> Row:
        """Queue an utterance.

        Args:
            steps: Each `next()` is one step. It runs, and is closed, on the device thread.
            sample_rate_hz: Rate of its blocks.
            on_end: Called on the event loop when the device has let go of it; not if this raises.

        Raises:
            Draining: The worker takes nothing new.
            Overloaded: There is no room.
        """
        if self.draining:
            raise Draining("this worker is shutting down; ask another one", retry_after_s=1.0)
        row = Row(self, steps, sample_rate_hz, on_end)
        with self._changed:
            if len(self._rows) >= self.capacity:
                raise Overloaded(
                    f"all {self.capacity} places of this worker are taken", retry_after_s=max(1.0, self._mean_row_s)
                )
            self._rows.append(row)
            self._changed.notify()
        self._changes.notify()
        return row

    def cancel(self, row: Row) -> None:
        """Give a row up; nothing happens if it has ended. Called on the event loop."""
        with self._changed:
            row._cancelled = True
            self._changed.notify()
            is_queued = row in self._rows and not row.begun
            if is_queued:
                self._rows.remove(row)
        if is_queued:
            row._steps.close()
            row._on_end()
            self._changes.notify()

    def wake(self) -> None:
        """Let the device thread look again: a reader has caught up."""
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        while row := self._next():
            goes_on = row._step()
            if not goes_on:
                with self._changed:
                    self._rows.remove(row)
                    row_s = time.monotonic() - row._submitted_at
                    self._mean_row_s += 0.1 * (row_s - self._mean_row_s)
                row._loop.call_soon_threadsafe(row._on_end)
                row._loop.call_soon_threadsafe(self._changes.notify)

    def _next(self) -> Row | None:
        """Wait for a row that may advance, and take it up; None when the thread shall end."""
        with self._changed:
            while not self._stopping:
                able = (row for row in self._rows if row._cancelled or row._lead_s() < self._lead_s)
                if row := min(able, key=Row._deadline, default=None):
                    if not row.begun:
                        row.begun, row.queue_s = True, time.monotonic() - row._submitted_at
                        row._loop.call_soon_threadsafe(self._changes.notify)
                    return row
                self._changed.wait()
        return None
