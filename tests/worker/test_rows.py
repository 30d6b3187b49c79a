"""What is written down of a row that somebody traces."""

import pytest

from worker.rows import Timeline


def test_a_timeline_tells_once_what_each_stage_did_for_each_segment_that_is_over():
    timeline = Timeline()
    timeline.begin(0)
    timeline.note_run("encode", 0.5, 1)
    for rows in (1, 3):
        timeline.note_run("decode", 0.25, rows)
    assert not list(timeline.take(is_over=False))  # There may be more of it.
    timeline.begin(1)
    timeline.note_run("encode", 0.125, 2)
    told = dict(timeline.take(is_over=False))
    assert told.keys() == {(0, "encode"), (0, "decode")}
    decode = told[0, "decode"]
    assert (decode.time.runs, decode.time.busy_s, decode.time.rows) == (2, 0.5, 4)
    assert decode.ended_at - decode.began_at >= 0.25
    assert told[0, "encode"].ended_at - told[0, "encode"].began_at == pytest.approx(0.5)
    assert [key for key, _ in timeline.take(is_over=True)] == [(1, "encode")]
    assert not list(timeline.take(is_over=True))
