"""What is counted of requests and speech, and that nothing a client makes up becomes a series."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.fleet.fleet import Fleet
from gateway.fleet.speech import Speech
from gateway.metrics import Figures, Metrics
from protos.tts.v1 import models_pb2, speech_pb2
from tests.scrape import Scrape

RATE_HZ = 24_000


def spoken(audio_s: float, summary: speech_pb2.StreamSummary | None = None, moves: int = 0) -> Speech:
    """An utterance that is over."""
    speech = Fleet(()).speech(speech_pb2.SynthesizeRequest())
    if audio_s:
        speech.header = speech_pb2.StreamHeader()
        speech.header.format.sample_rate_hz = RATE_HZ
    speech.num_samples = round(audio_s * RATE_HZ)
    speech.summary, speech.moves = summary, moves
    return speech


def summary(work_ms: int, queue_ms: int = 0, underruns: int = 0, stages: tuple = ()) -> speech_pb2.StreamSummary:
    written = speech_pb2.StreamSummary(underruns=underruns)
    written.synthesis_time.FromMilliseconds(work_ms)
    written.queue_time.FromMilliseconds(queue_ms)
    written.underrun_time.FromMilliseconds(200 * underruns)
    for name, runs, batch_size in stages:
        written.stages.add(name=name, runs=runs, batch_size=batch_size)
    return written


def scrape(metrics: Metrics) -> Scrape:
    return Scrape(metrics.text({"up": 1}, num_sessions=2).decode())


def with_model(name: str, use: Callable[[Metrics, Fleet], None]) -> None:
    """Use the metrics of a gateway with a worker that has a model."""

    async def run() -> None:
        fleet = Fleet(("127.0.0.1:1",))
        await fleet.start()
        for link in fleet:
            link.status = models_pb2.WatchStatusResponse(models=[models_pb2.Model(name=name)])
        use(Metrics(fleet), fleet)
        await fleet.stop()

    asyncio.run(run())


def test_figures_of_several_utterances_are_those_of_all_their_audio():
    figures = Figures()
    assert figures.line() == {}
    figures.add(spoken(0.0, moves=1))
    figures.add(spoken(2.0, summary(100, queue_ms=30, stages=(("encode", 1, 1), ("decode", 3, 2)))))
    figures.add(spoken(6.0, summary(300, queue_ms=10, underruns=2, stages=(("decode", 4, 4),))))
    assert figures.line() == {
        "audio_s": 8.0,
        "rtf": 0.05,
        "queue_ms": 30.0,
        "underruns": 2,
        "batch": round((1 + 6 + 16) / 8, 1),
        "moves": 1,
    }


def test_an_utterance_without_a_summary_tells_no_real_time_factor():
    figures = Figures().add(spoken(3.0))
    assert figures.line() == {"audio_s": 3.0}
    assert figures.add(spoken(1.0, summary(500))).rtf == 0.5


def test_only_models_that_some_worker_has_had_are_named():
    def use(metrics: Metrics, fleet: Fleet) -> None:
        for model in ("org/here", "org/made-up-1", "org/made-up-2"):
            fields = {"model": model, "format": "wav", "status": 200, "outcome": "ok"}
            metrics.note_request("/v1/audio/speech", fields)
            metrics.note_speech(model, spoken(1.0, summary(50)))
            metrics.note_first_audio(model, 30.0, is_live=True)
        for link in fleet:
            link.status = None  # It has gone; the model is the same.
        metrics.note_request("/v1/audio/speech", {"model": "org/here", "status": 503, "outcome": "failed"})
        found = scrape(metrics)
        requests = "sonorant_gateway_requests_total"
        assert found(requests) == 4
        assert found(requests, model="org/here", format="wav", status="200", outcome="ok") == 1
        assert found(requests, model="org/here", format="", status="503", outcome="failed") == 1
        assert found(requests, model="", route="/v1/audio/speech") == 2
        assert {labels["model"] for labels in found.labels("sonorant_gateway_audio_seconds_total")} == {"org/here", ""}

    with_model("org/here", use)


def test_speech_is_counted_by_what_came_of_it():
    def use(metrics: Metrics, fleet: Fleet) -> None:
        for said in (spoken(2.0, summary(100, underruns=3)), spoken(2.0, summary(200)), spoken(1.0)):
            metrics.note_speech("m", said)
        metrics.note_speech("m", spoken(0.0, moves=2))
        metrics.note_first_audio("m", 30.0, is_live=True)
        metrics.note_first_audio("m", 700.0, is_live=False)
        found = scrape(metrics)
        first_audio = "sonorant_gateway_time_to_first_audio_seconds"
        assert found(f"{first_audio}_bucket", model="m", delivery="live", le="0.02") == 0
        assert found(f"{first_audio}_bucket", model="m", delivery="live", le="0.03") == 1
        assert found(f"{first_audio}_count", delivery="live") == 1
        assert found(f"{first_audio}_sum", model="m", delivery="whole") == 0.7
        assert found("sonorant_gateway_real_time_factor_count", model="m") == 2
        assert found("sonorant_gateway_audio_seconds_total", model="m") == 5.0
        assert found("sonorant_gateway_underruns_total", model="m") == 3
        assert found("sonorant_gateway_underrun_seconds_total", model="m") == pytest.approx(0.6)
        assert found("sonorant_gateway_moves_total", model="m") == 2
        states = [found("sonorant_gateway_workers", state=each) for each in ("up", "starting", "draining", "down")]
        assert states == [1, 0, 0, 0]
        assert found("sonorant_gateway_sessions") == 2

    with_model("m", use)
