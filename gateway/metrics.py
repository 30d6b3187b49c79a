"""What the log and Prometheus are told of requests and of what was spoken; decides nothing.

Labels are bounded: routes, formats and outcomes are ours, and a model is named if some worker has had it. What else a
client asks for has no series of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from gateway.auth import KeyFile
from gateway.fleet.fleet import Fleet
from gateway.fleet.speech import Speech

FIRST_AUDIO_S = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 10.0),
)
FACTORS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)

WORKER_STATES = ("up", "starting", "draining", "down")

# When a series began is in no query of ours, and would be told for each of them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # The library says no types here.


@dataclass(slots=True)
class Figures:
    """What came of an utterance, or of several that one request has had spoken.

    Attributes:
        audio_s: Their audio as models made it, in seconds.
        moves: Workers that failed one of them before it began.
        underruns: How often a listener at real time has run dry.
        underrun_s: For how long, in all.
        queue_s: The longest that one has waited for the device.
    """

    audio_s: float = 0.0
    moves: int = 0
    underruns: int = 0
    underrun_s: float = 0.0
    queue_s: float = 0.0
    _ended_s: float = 0.0  # Audio of those that were spoken to their end: only of these is the rest known.
    _work_s: float = 0.0
    _runs: int = 0
    _rows: float = 0.0
    _ran_away: bool = False

    def add(self, spoken: Speech) -> Figures:
        """Add an utterance that is over; return the sum."""
        self.moves += spoken.moves
        audio_s = spoken.num_samples / spoken.header.format.sample_rate_hz if spoken.num_samples else 0.0
        self.audio_s += audio_s
        if summary := spoken.summary:
            self._ended_s += audio_s
            self._work_s += summary.synthesis_time.ToTimedelta().total_seconds()
            self.queue_s = max(self.queue_s, summary.queue_time.ToTimedelta().total_seconds())
            self.underruns += summary.underruns
            self.underrun_s += summary.underrun_time.ToTimedelta().total_seconds()
            self._runs += sum(stage.runs for stage in summary.stages)
            self._rows += sum(stage.runs * stage.batch_size for stage in summary.stages)
            self._ran_away = self._ran_away or spoken.was_cut
        return self

    @property
    def rtf(self) -> float | None:
        """Real-time factor: work for each second of audio; None while nobody has told."""
        return self._work_s / self._ended_s if self._ended_s else None

    def line(self) -> dict[str, object]:
        """Write them for the log; what is not known, or is not worth a word, is left out."""
        fields: dict[str, object] = {}
        if self.audio_s:
            fields["audio_s"] = round(self.audio_s, 3)
        if self.rtf is not None:
            fields |= {
                "rtf": round(self.rtf, 4),
                "queue_ms": round(1000 * self.queue_s, 1),
                "underruns": self.underruns,
                "batch": round(self._rows / self._runs, 1) if self._runs else 0.0,
            }
        if self._ran_away:
            fields["ran_away"] = True
        if self.moves:
            fields["moves"] = self.moves
        return fields


class Metrics:
    """The counts of one gateway.

    Args:
        fleet: The workers.
        keys: The file of API keys, if there is one.
    """

    def __init__(self, fleet: Fleet, keys: KeyFile | None = None) -> None:
        self._fleet = fleet
        self._keys = keys
        self._models: set[str] = set()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = self._counter(
            "requests",
            "Requests and WebSockets that are over, by how that ended.",
            *("route", "model", "format", "status", "outcome"),
        )
        self._first_audio = self._histogram(
            "time_to_first_audio_seconds",
            "From a request's arrival, or the first piece of a turn, until the first audio was sent.",
            FIRST_AUDIO_S,
            *("model", "delivery"),
        )
        self._factor = self._histogram(
            "real_time_factor", "Work for each second of audio, of utterances spoken to their end.", FACTORS, "model"
        )
        self._audio = self._counter("audio_seconds", "Audio that came from workers.", "model")
        self._underruns = self._counter("underruns", "Times that a listener at real time has run dry.", "model")
        self._underrun = self._counter("underrun_seconds", "For how long listeners were dry.", "model")
        self._moves = self._counter("moves", "Workers that failed an utterance before it began.", "model")
        self._replicas = self._counter(
            "replications",
            "Times that a model whose workers could not keep up was brought to one more.",
            "model",
            "outcome",
        )
        fleet.on_replica = lambda model, outcome: self._replicas.labels(self._known(model), outcome).inc()
        self._workers = self._gauge("workers", "Workers by their state.", "state")
        self._streams = self._gauge("streams", "Calls open at workers.")
        self._sessions = self._gauge("sessions", "WebSockets open.")
        self._keys_file_ok = self._gauge(
            "keys_file_ok", "0 while the file of API keys is wrong and what it said before counts."
        )

    def note_request(self, route: str, fields: Mapping[str, object]) -> None:
        """Note a request, or a WebSocket, that is over.

        Args:
            route: What its path is an instance of; empty where no route was reached.
            fields: Of its line in the log.
        """
        model = self._known(str(fields.get("model", "")))
        form, status, outcome = (str(fields.get(name, "")) for name in ("format", "status", "outcome"))
        self._requests.labels(route, model, form, status, outcome).inc()

    def note_first_audio(self, model: str, ttfa_ms: float, *, is_live: bool) -> None:
        """Note the first audio of a request or a turn.

        Args:
            model: What was asked for, whether or not there is such a model.
            ttfa_ms: Time until it was sent.
            is_live: Whether it was sent as it came, and not gathered first.
        """
        self._first_audio.labels(self._known(model), "live" if is_live else "whole").observe(ttfa_ms / 1000)

    def note_speech(self, model: str, spoken: Speech) -> None:
        """Note an utterance that is over, however it has ended.

        Args:
            model: What was asked for, whether or not there is such a model.
            spoken: The utterance.
        """
        model = self._known(model)
        figures = Figures().add(spoken)
        if figures.rtf is not None:
            self._factor.labels(model).observe(figures.rtf)
        self._audio.labels(model).inc(figures.audio_s)
        self._underruns.labels(model).inc(figures.underruns)
        self._underrun.labels(model).inc(figures.underrun_s)
        self._moves.labels(model).inc(figures.moves)

    def text(self, states: Mapping[str, int], num_sessions: int) -> bytes:
        """Write everything as Prometheus reads it (text format 0.0.4).

        Args:
            states: How many workers are in each of `WORKER_STATES`.
            num_sessions: WebSockets open.
        """
        for state in WORKER_STATES:
            self._workers.labels(state).set(states.get(state, 0))
        self._streams.set(self._fleet.outstanding)
        self._sessions.set(num_sessions)
        self._keys_file_ok.set(self._keys is None or self._keys.is_good)
        return generate_latest(self._registry)

    def _known(self, model: str) -> str:
        """Give the name of a model that some worker has, or has had; else nothing."""
        if model not in self._models and any(model == each.name for link in self._fleet for each in link.models):
            self._models.add(model)
        return model if model in self._models else ""

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"sonorant_gateway_{name}", what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"sonorant_gateway_{name}", what, labels, registry=self._registry, buckets=buckets)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"sonorant_gateway_{name}", what, labels, registry=self._registry)
