"""Windows of a segment: every frame once, cut only where the halo is given up, and as long as the listener allows."""

from __future__ import annotations

from itertools import pairwise

import pytest

from worker.engines.vits_windows import GROWTH, SHARE, SMALLEST, STEADY, Shape, Windows

HALO = (13, 12)
FRAME_S = 0.016
FAST_S = FRAME_S / 100
LENGTHS = (1, 7, 20, 21, 40, 56, 57, 58, 90, 300, 1000)

fixed_or_not = pytest.mark.parametrize("is_fixed", [False, True])


def windows(is_fixed: bool = False, longest_s: float = 10.0) -> Windows:
    return Windows(HALO, FRAME_S, longest_s=longest_s, is_fixed=is_fixed)


def slices(made: Windows, num_frames: int, lead_s: float = 0.0, cost_s: float = FAST_S) -> list[tuple[int, int, int]]:
    """First frame of the slice, first frame of the window and the frame after its last one, of each; checked."""
    cut, start = [], 0
    while start < num_frames:
        shape = made.choose(start, num_frames, lead_s, cost_s)
        left, stop = made.place(start, num_frames, shape)
        assert start < stop <= num_frames
        assert 0 <= left <= start
        assert left + shape.length <= num_frames
        assert left + shape.first <= start
        assert left + shape.stop == stop
        assert left == 0 or shape.first >= HALO[0]
        assert left + shape.length == num_frames or shape.stop + HALO[1] <= shape.length
        cut.append((left, start, stop))
        start = stop
    return cut


@fixed_or_not
@pytest.mark.parametrize("lead_s", [0.0, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("cost_s", [FAST_S, FRAME_S / 8, FRAME_S / 2, FRAME_S * 2])
def test_windows_cover_every_frame_once_with_their_halos(is_fixed: bool, lead_s: float, cost_s: float) -> None:
    for num_frames in LENGTHS:
        cut = slices(windows(is_fixed), num_frames, lead_s, cost_s)
        assert [start for _, start, _ in cut] == [0, *(stop for _, _, stop in cut[:-1])]
        assert cut[-1][2] == num_frames


def test_the_first_window_is_small_and_the_others_grow_with_the_lead() -> None:
    assert slices(windows(), 500)[0] == (0, 0, SMALLEST)
    gains = [windows().choose(100, 1000, lead_s, FAST_S).length for lead_s in (0.0, 0.006, 0.01, 0.02, 0.04, 1.0)]
    assert gains == [frames + sum(HALO) for frames in (STEADY, STEADY, *GROWTH)]


def test_no_run_takes_more_of_the_lead_than_its_share() -> None:
    made = windows()
    for lead_s in (0.5, 0.8, 1.5):
        shape = made.choose(100, 1000, lead_s, FRAME_S / 4)
        assert shape.work * FRAME_S / 4 <= SHARE * lead_s


def test_others_do_not_wait_long_even_for_whoever_can_wait() -> None:
    for longest_s in (0.3, 0.5):
        shape = windows(longest_s=longest_s).choose(100, 5000, 100.0, FRAME_S / 4)
        assert shape.work * FRAME_S / 4 <= longest_s
        assert shape.length > STEADY + sum(HALO)


@pytest.mark.parametrize("cost_s", [FRAME_S / 20, FRAME_S / 8, FRAME_S / 4, FRAME_S / 2.5])
def test_the_first_sound_lasts_until_the_next_is_there(cost_s: float) -> None:
    made = windows()
    first, *others = slices(made, 1000, 0.0, cost_s)
    lead_s, start = (first[2] - first[1]) * FRAME_S, first[2]
    for _ in others:
        if start == 1000:
            break
        shape = made.choose(start, 1000, lead_s, cost_s)
        assert shape.work * cost_s < lead_s
        stop = made.place(start, 1000, shape)[1]
        lead_s += (stop - start) * FRAME_S - shape.work * cost_s
        start = stop


def test_slow_devices_begin_with_more() -> None:
    firsts = [slices(windows(), 1000, 0.0, FRAME_S / speedup)[0][2] for speedup in (50, 4, 2)]
    assert firsts == sorted(set(firsts))


def test_a_window_that_leaves_little_takes_it_too() -> None:
    made = windows()
    last = max(shape.length for shape in made.shapes)
    most = last + last // 4
    assert made.choose(0, most, 100.0, FAST_S) == Shape(most, 0, most)
    assert made.choose(0, most + 1, 100.0, FAST_S) == Shape(last, 0, last - HALO[1])


def test_fixed_slices_have_a_few_shapes_and_end_with_the_segment_by_beginning_earlier() -> None:
    made = windows(is_fixed=True)
    assert len(set(made.shapes)) == len(made.shapes) == 17
    for num_frames in range(STEADY + sum(HALO), 700):
        for start in range(0, num_frames, 16):
            shape = made.choose(start, num_frames, 1.0, FAST_S)
            # One that is as long as the whole segment is no more than itself.
            assert shape in made.shapes or shape == Shape(num_frames, 0, num_frames)
        start = num_frames - 3
        shape = made.choose(start, num_frames, 1.0, FAST_S)
        assert made.place(start, num_frames, shape) == (num_frames - shape.length, num_frames)
    (short,) = slices(made, 20)
    assert short == (0, 0, 20)


def test_windows_after_the_first_are_not_mostly_halo() -> None:
    for is_fixed in (False, True):
        cut = slices(windows(is_fixed), 2000)
        for (_, start, stop), _ in pairwise(cut):
            least = GROWTH[0] if is_fixed else STEADY
            assert stop - start >= (least if start >= HALO[0] else SMALLEST)
