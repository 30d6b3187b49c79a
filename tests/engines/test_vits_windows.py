"""Windows of a segment: every frame once, cut only where the halo is given up, and as long as the listener allows."""

from __future__ import annotations

from itertools import pairwise

import pytest

from worker.engines.vits_windows import SHARE, SMALLEST, STEADY, Windows

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
        size = made.choose(start, num_frames, lead_s, cost_s)
        left, stop = made.place(start, num_frames, size)
        assert start < stop <= num_frames
        assert 0 <= left <= start
        assert left + size <= num_frames
        assert left == 0 or left <= start - HALO[0]
        assert left + size == num_frames or left + size >= stop + HALO[1]
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
    gains = [windows().choose(100, 1000, lead_s, FAST_S) for lead_s in (0.0, 0.02, 0.03, 0.06, 1.0)]
    assert gains == sorted(gains)
    assert gains[0] == STEADY + sum(HALO)
    assert gains[-1] == 256 + sum(HALO)


def test_no_run_takes_more_of_the_lead_than_its_share() -> None:
    made = windows()
    for lead_s in (0.5, 0.8, 1.5):
        size = made.choose(100, 1000, lead_s, FRAME_S / 4)
        assert size * FRAME_S / 4 <= SHARE * lead_s


def test_others_do_not_wait_long_even_for_whoever_can_wait() -> None:
    for longest_s in (0.3, 0.5):
        size = windows(longest_s=longest_s).choose(100, 5000, 100.0, FRAME_S / 4)
        assert size * FRAME_S / 4 <= longest_s
        assert size >= STEADY + sum(HALO)


@pytest.mark.parametrize("cost_s", [FRAME_S / 20, FRAME_S / 8, FRAME_S / 4, FRAME_S / 2.5])
def test_the_first_sound_lasts_until_the_next_is_there(cost_s: float) -> None:
    made = windows()
    first, *others = slices(made, 1000, 0.0, cost_s)
    lead_s, start = (first[2] - first[1]) * FRAME_S, first[2]
    for _ in others:
        if start == 1000:
            break
        size = made.choose(start, 1000, lead_s, cost_s)
        assert size * cost_s < lead_s
        stop = made.place(start, 1000, size)[1]
        lead_s += (stop - start) * FRAME_S - size * cost_s
        start = stop


def test_slow_devices_begin_with_more() -> None:
    firsts = [slices(windows(), 1000, 0.0, FRAME_S / rtf)[0][2] for rtf in (50, 6, 3)]
    assert firsts == sorted(set(firsts))


def test_a_window_that_leaves_little_takes_it_too() -> None:
    made = windows()
    last = made.lengths[-1]
    assert made.choose(0, last + last // 4, 100.0, FAST_S) == last + last // 4
    assert made.choose(0, last + last // 4 + 1, 100.0, FAST_S) == last


def test_fixed_slices_have_a_few_lengths_and_end_with_the_segment_by_beginning_earlier() -> None:
    made = windows(is_fixed=True)
    for num_frames in range(STEADY + sum(HALO), 700):
        start = num_frames - 5
        size = made.choose(start, num_frames, 1.0, FAST_S)
        assert size in made.lengths
        assert made.place(start, num_frames, size) == (num_frames - size, num_frames)
    (short,) = slices(made, 20)
    assert short == (0, 0, 20)


def test_windows_after_the_first_are_not_mostly_halo() -> None:
    for is_fixed in (False, True):
        cut = slices(windows(is_fixed), 2000)
        for (_, start, stop), _ in pairwise(cut):
            assert stop - start >= (STEADY if start >= HALO[0] else SMALLEST)
