"""The instruments of the benchmarks, on responses made up by hand."""

import asyncio
import math

import pytest

from tests.bench.capacity import Tried, best, search
from tests.bench.http_client import Response
from tests.bench.listener import Answer, in_window, percentile, summary, underruns
from tests.bench.load import Plan, follow
from tests.bench.outcome import Check, Curve
from tests.bench.plots import draw


def spoken(*chunks: tuple[float, float], due_s: float = 0.0) -> Answer:
    return Answer(due_s, due_s, 200, "", chunks[0][0], chunks[-1][0], is_complete=True, chunks=chunks)


def test_a_listener_whose_next_chunk_is_always_there_hears_no_gap():
    assert underruns([(1.0, 0.5), (1.5, 0.5), (1.9, 0.5), (2.5, 0.5)]) == []


def test_a_chunk_that_comes_after_the_one_before_was_played_is_an_underrun_of_that_length():
    assert underruns([(1.0, 0.5), (1.75, 0.5)], jitter_s=0.0) == pytest.approx([0.25])


def test_what_is_held_back_at_the_start_is_used_up_once():
    assert underruns([(0.0, 0.5), (0.51, 0.5), (1.02, 0.5)], jitter_s=0.02) == []
    assert underruns([(0.0, 0.5), (0.515, 0.5), (1.03, 0.5)], jitter_s=0.02) == pytest.approx([0.01])


def test_after_an_underrun_the_listener_plays_on_from_when_the_chunk_came():
    assert underruns([(0.0, 0.5), (1.0, 0.5), (1.6, 0.5)], jitter_s=0.0) == pytest.approx([0.5, 0.1])


def test_percentiles_are_values_that_were_measured():
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([3.0, 1.0], 0.95) == 3.0
    assert math.isnan(percentile([], 0.5))


def test_first_audio_counts_from_when_the_request_was_due():
    late_client = Answer(1.0, 1.4, 200, "", 1.5, 1.9, is_complete=True, chunks=[(1.5, 1.0)])
    assert late_client.ttfa_s == pytest.approx(0.5)
    assert late_client.rtf == pytest.approx(0.9)


def test_a_summary_tells_spoken_refused_and_failed_apart():
    answers = [
        spoken((0.1, 1.0)),
        spoken((0.2, 0.5), (1.0, 0.5)),
        Answer(0.0, 0.0, 503, "1", 0.01, 0.01, is_complete=True),
        Answer(0.0, 0.0, 200, "", 0.1, 0.2, chunks=[(0.1, 0.1)]),
        Answer(0.0, 0.0),
    ]
    told = summary(answers)
    assert (told["spoken"], told["refused"], told["failed"]) == (2, 1, 2)
    assert (told["status_200"], told["status_0"]) == (1, 1)
    assert (told["ttfa_p50_ms"], told["ttfa_p95_ms"]) == (100.0, 200.0)
    assert (told["dry_streams"], told["underruns"], told["underrun_s"]) == (1, 1, 0.28)


def test_only_audio_that_came_in_the_window_counts_for_throughput():
    assert in_window([spoken((0.4, 1.0), (0.6, 1.0), (2.0, 1.0))], 0.5, 2.0) == 1.0


def test_arrivals_have_the_rate_asked_for_and_are_the_same_each_time():
    plan = Plan(0, "model", ["text"], 1000.0, rate=8.0)
    arrivals = list(plan.arrivals())
    assert arrivals == list(plan.arrivals())
    assert arrivals == sorted(arrivals)
    assert len(arrivals) == pytest.approx(8000, rel=0.05)


def test_talkers_go_on_to_the_next_text_until_the_time_is_over():
    now_s = 0.0
    asked = []

    async def ask(text: str, number: int, due_s: float) -> Answer:
        nonlocal now_s
        asked.append((text, number, due_s))
        now_s += 1.0
        return Answer(due_s, due_s, 200, "", now_s, now_s, is_complete=True, chunks=[(now_s, 1.0)])

    answers = asyncio.run(follow(Plan(0, "model", ["one", "two"], 3.0, talkers=1), ask, lambda: now_s))
    assert asked == [("one", 0, 0.0), ("two", 1, 1.0), ("one", 2, 2.0)]
    assert len(answers) == 3


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_chunked_response_is_read_however_it_is_cut(size):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Sonorant-Sample-Rate: 24000\r\n\r\n"
    body = b"4\r\n\r\n12\r\nA\r\n0123456789\r\n0\r\n\r\n"
    received = head + body
    response = Response()
    counts = [response.feed(received[start : start + size]) for start in range(0, len(received), size)]
    assert sum(counts) == 14
    assert response.is_complete
    assert (response.status, response.headers["x-sonorant-sample-rate"]) == (200, "24000")


def test_a_refusal_is_read_by_its_length():
    response = Response()
    response.feed(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\n{")
    assert not response.is_complete
    assert response.feed(b"}\r\n") == 3
    assert response.is_complete
    assert (response.status, response.headers["retry-after"]) == (503, "3")


@pytest.mark.parametrize(("carries", "guess"), [(100.0, 100.0), (100.0, 60.0), (100.0, 190.0)])
def test_the_search_ends_between_a_load_that_is_carried_and_one_that_is_not(carries, guess):
    def attempt(level: float) -> list[Answer]:
        return [spoken((0.1, 1.0)), spoken((0.1, 1.0)) if level <= carries else Answer(0.0, 0.0, 503)]

    tried = search(attempt, guess)
    assert carries / 1.25 < best(tried).level <= carries
    assert [each.is_carried for each in tried] == sorted((each.is_carried for each in tried), reverse=True)


def test_a_server_whose_queue_grows_does_not_carry_the_load():
    assert Tried(8.0, [spoken((0.4, 1.0))]).is_carried
    assert not Tried(8.0, [spoken((0.6, 1.0))]).is_carried


def test_a_limit_may_be_one_from_above_or_from_below():
    assert Check("at most", 2.0, 2.0).is_met
    assert not Check("at most", 2.1, 2.0).is_met
    assert Check("at least", 0.95, 0.95, is_most=False).is_met
    assert not Check("nothing was measured", math.nan, 1.0).is_met


def test_curves_become_a_picture(tmp_path):
    draw([Curve("rate", "hibari", [(8.0, 60.0), (2.0, 40.0)])], "a machine", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
