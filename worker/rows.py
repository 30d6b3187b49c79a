"""One utterance on its way through the device, and the clock of its listener; knows no other utterance."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import structlog

from worker.engines.stages import Call
from worker.errors import EngineFailure, WorkerError
from worker.synthesis import Block, Utterance

WHOLE_PATIENCE_S = 10.0
"""How much later what nobody listens to is due than what somebody does."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class StageTime:
    """What a stage did for one utterance.

    Attributes:
        runs: How often it ran.
        busy_s: Time of these runs, in seconds.
        rows: Utterances that these runs were shared by, added up.
    """

    runs: int = 0
    busy_s: float = 0.0
    rows: int = 0

    def add(self, seconds: float, rows: int) -> None:
        """Note a run."""
        self.runs += 1
        self.busy_s += seconds
        self.rows += rows


@dataclass(slots=True)
class Noted:
    """What a stage did for one segment.

    Attributes:
        began_at: When its first run began, on the monotonic clock.
        ended_at: When its last one ended.
        time: All of them.
    """

    began_at: float
    ended_at: float = 0.0
    time: StageTime = field(default_factory=StageTime)


class Timeline:
    """When which stage worked on an utterance, segment by segment; kept only where somebody asks for it.

    Written by the thread that has the row in hand, and read by the event loop meanwhile: of a segment that is over
    nothing is written any more.
    """

    def __init__(self) -> None:
        self._segment = 0
        self._noted: dict[tuple[int, str], Noted] = {}

    def begin(self, segment: int) -> None:
        """Note that a segment begins."""
        self._segment = segment

    def note_run(self, stage: str, seconds: float, rows: int) -> None:
        """Note a run of a stage that has just ended."""
        now = time.monotonic()
        noted = self._noted.setdefault((self._segment, stage), Noted(now - seconds))
        noted.ended_at = now
        noted.time.add(seconds, rows)

    def take(self, *, is_over: bool) -> Iterator[tuple[tuple[int, str], Noted]]:
        """Give, once, what is known of the segments that are over, by segment and stage; in the end of all."""
        segment = self._segment
        for key in list(self._noted):  # In one step: meanwhile there may come more.
            if is_over or key[0] < segment:
                yield key, self._noted.pop(key)


@dataclass(frozen=True, slots=True)
class Work:
    """An utterance that is to be spoken.

    Attributes:
        steps: The utterance; it runs, and is closed, on threads of the scheduler.
        sample_rate_hz: Rate of its blocks.
        model: Id of the model; what is measured is kept by it.
        num_chars: Length of the text: what is to be done is guessed by it.
        is_staged: Whether any thread may run it between two calls of stages; else the device thread alone.
        slots: Most utterances of that model at once; None for any number.
        tenant: Who asks.
        is_live: Whether somebody listens meanwhile.
        goes_on: Whether it goes on with what was heard already, and so must not be refused.
        timeline: Told of every run, if somebody wants to know.
    """

    steps: Utterance
    sample_rate_hz: int
    model: str = ""
    num_chars: int = 0
    is_staged: bool = False
    slots: int | None = None
    tenant: str = ""
    is_live: bool = True
    goes_on: bool = False
    timeline: Timeline | None = None


@dataclass(slots=True)
class Playback:
    """A listener who plays at real time from the first audio on, on the monotonic clock.

    Attributes:
        sample_rate_hz: Rate of the audio.
        dry_at: When what has been made will have been played; 0 before the first audio.
        underruns: How often it has run dry.
        underrun_s: For how long, in all.
    """

    sample_rate_hz: int
    dry_at: float = 0.0
    underruns: int = 0
    underrun_s: float = 0.0

    def add(self, num_samples: int, now: float, *, is_reader_waiting: bool, is_live: bool = True) -> None:
        """Hand over audio; what comes late is an underrun if the reader had taken all that there was."""
        late_s = now - self.dry_at
        if self.dry_at and late_s > 0 and is_reader_waiting:
            self.underruns += 1
            self.underrun_s += late_s
        self.dry_at = (max(self.dry_at, now) if is_live else self.dry_at or now) + num_samples / self.sample_rate_hz


class Row:
    """One utterance on its way through the device; made by `Scheduler.submit`.

    Iterate over it for its blocks, as they are made; a `WorkerError` ends the iteration if the row failed. It is a
    context manager too: leaving the context cancels what is left, at once if the device has not taken it up, else when
    the run that it is in has ended. Nobody waits for that; `on_end` tells.

    Attributes:
        work: What is to be done.
        call: What it waits for; None before its first step.
        is_begun: Whether it has had its first step.
        is_running: Whether a thread has it in hand.
        is_cancelled: Whether nobody wants it any more.
        is_ended: Whether all is done.
        submitted_at: On the monotonic clock.
        queue_s: Time from submission to its first step, in seconds.
        busy_s: Time that the device has worked on it, whether or not for others too.
        work_s: Its share of that, in seconds of one lane.
        num_made: Samples made.
        playback: Its listener.
        stages: What each stage did for it, by name.
    """

    def __init__(
        self,
        work: Work,
        on_read: Callable[[float], None],
        on_cancel: Callable[[Row], None],
        on_end: Callable[[], None],
    ) -> None:
        self.work = work
        self.call: Call[Any, Any] | None = None
        self.is_begun = self.is_running = self.is_cancelled = self.is_ended = False
        self.submitted_at = time.monotonic()
        self.queue_s = 0.0
        self.busy_s = 0.0
        self.work_s = 0.0
        self.num_made = 0
        self.playback = Playback(work.sample_rate_hz)
        self.stages: dict[str, StageTime] = {}
        self.loop = asyncio.get_running_loop()
        self.on_end = on_end
        self._on_read = on_read
        self._on_cancel = on_cancel
        self._num_taken = 0  # Samples; written by the event loop alone.
        self._first_audio_sent = threading.Event()
        self._results: asyncio.Queue[Block | WorkerError | None] = asyncio.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._first_audio_sent.set()
        self.is_cancelled = True
        self._on_cancel(self)

    def first_audio_sent(self) -> None:
        """Tell the device that the first audio is on the wire."""
        self._first_audio_sent.set()

    def wait_for_first_audio(self, seconds: float) -> None:
        """Give the event loop time to send the first audio."""
        self._first_audio_sent.wait(seconds)

    async def __aiter__(self) -> AsyncIterator[Block]:
        while (result := await self._results.get()) is not None:
            if isinstance(result, WorkerError):
                raise result
            yield result
            # Only now is the block on its way: the reader asked for the next one.
            num_taken = self._num_taken
            self._num_taken += len(result.samples)
            # After the count: what was made until now may have been judged by the old one, and rest.
            self._on_read((self.num_made - num_taken) / self.work.sample_rate_hz)

    @property
    def made_s(self) -> float:
        """Audio that it has made, in seconds."""
        return self.num_made / self.work.sample_rate_hz

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of work for each second of audio."""
        return self.busy_s / self.made_s if self.num_made else 0.0

    @property
    def num_runs(self) -> int:
        """Runs of stages that it had a part in."""
        return sum(noted.runs for noted in self.stages.values())

    @property
    def batch_size(self) -> float:
        """Rows that its runs were shared by: the mean."""
        return sum(noted.rows for noted in self.stages.values()) / self.num_runs if self.stages else 0.0

    @property
    def unread_s(self) -> float:
        """Audio that its reader has not taken, in seconds."""
        return (self.num_made - self._num_taken) / self.work.sample_rate_hz

    @property
    def patience_s(self) -> float:
        """How much later it is due than if somebody listened."""
        return 0.0 if self.work.is_live else WHOLE_PATIENCE_S

    def due_at(self) -> float:
        """When its listener runs dry, on the monotonic clock; of one that has made nothing, when it came."""
        return (self.playback.dry_at or self.submitted_at) + self.patience_s

    def lead_s(self, now: float) -> float:
        """How long its listener can wait, in seconds."""
        return max(0.0, self.due_at() - now) if self.num_made else self.patience_s

    def needs_device_thread(self) -> bool:
        """Whether no other thread may take it on."""
        return not (self.call.stage.is_reentrant if self.call else self.work.is_staged)

    def advance(self, result: object = None) -> bool:
        """Go on to the next call; on the thread that has it in hand.

        Args:
            result: What came of the call that it waited for.

        Returns:
            Whether its first audio was among what it has made on the way.
        """
        was_silent = not self.num_made
        self.call = None
        try:
            while not self.is_cancelled:
                made = self.work.steps.send(result)
                if isinstance(made, Call):
                    self.call = made
                    return was_silent and self.num_made > 0
                result = None
                self._hand_over(made)
        except StopIteration:
            self._end(None)
        except BaseException as error:
            self.fail(error)
        else:
            self.close()
        return was_silent and self.num_made > 0

    def fail(self, error: BaseException) -> None:
        """End it with an error; on the thread that has it in hand."""
        if not isinstance(error, WorkerError):
            log.error("engine failed", model=self.work.model, exc_info=error)
            error = EngineFailure(f"the engine failed: {type(error).__name__}: {error}")
        self._close_steps()
        self._end(error)

    def close(self) -> None:
        """Give it up; on the thread that has it in hand."""
        self._close_steps()
        self._end(None)

    def note_run(self, stage: str, seconds: float, rows: int) -> None:
        """Note what a stage did for it."""
        self.stages.setdefault(stage, StageTime()).add(seconds, rows)
        self.busy_s += seconds
        if self.work.timeline:
            self.work.timeline.note_run(stage, seconds, rows)

    def _close_steps(self) -> None:
        try:
            self.work.steps.close()
        except BaseException:  # It is over either way, and the thread has others to serve.
            log.exception("engine failed to end", model=self.work.model)

    def _hand_over(self, block: Block) -> None:
        if num_samples := len(block.samples):
            is_waited_for = self.work.is_live and self.num_made == self._num_taken
            self.playback.add(num_samples, time.monotonic(), is_reader_waiting=is_waited_for, is_live=self.work.is_live)
            self.num_made += num_samples
        self.loop.call_soon_threadsafe(self._results.put_nowait, block)

    def _end(self, result: WorkerError | None) -> None:
        self.is_ended = True
        self.loop.call_soon_threadsafe(self._results.put_nowait, result)
