"""Decides how much of a segment a VITS decoder decodes at once; counts frames and seconds, and knows no network.

A window is decoded from a slice of the latent frames: the window and, on either side, its halo, the frames that reach
into it through the convolutions. Where a slice ends with the segment it needs no halo there. So slices of one length
need no masks, wherever and of whichever segment they are, and can be decoded as one batch.

The first audio waits for the first window, so that is small. But most of a small slice is halo; so windows grow as the
audio that the listener has in hand does.
"""

from __future__ import annotations

from collections.abc import Sequence

SMALLEST = 8
"""Frames of the smallest window: about a tenth of a second."""

STEADY = 32
"""Frames of the smallest window with a halo on both sides. Smaller ones take so much work that a device with many
listeners, once late, would never catch up."""

GROWTH = (64, 128, 256)
"""Frames of the larger windows."""

SHARE = 2 / 3
"""How much of the audio that a listener has in hand may pass while a window is decoded."""


class Windows:
    """Sizes of the slices of one network on one device.

    Args:
        halo: Frames before and after a window that its samples depend on.
        frame_s: Seconds of audio in a frame.
        longest_s: How long a run may take while others wait, in seconds.
        is_fixed: Whether slices keep to a few lengths, for which work is prepared. Otherwise they end with the segment,
            and take the rest of it if that is little more.
    """

    def __init__(self, halo: tuple[int, int], frame_s: float, *, longest_s: float, is_fixed: bool) -> None:
        self._before, self._after = halo
        self._frame_s = frame_s
        self._longest_s = longest_s
        self._is_fixed = is_fixed
        both = sum(halo)
        self._steady = both + STEADY
        starts = (self._after + SMALLEST, self._after + 2 * SMALLEST, both + 2 * SMALLEST)
        self.lengths: Sequence[int] = sorted({*starts, self._steady, *(both + frames for frames in GROWTH)})
        """Frames of the slices."""

    def choose(self, start: int, num_frames: int, lead_s: float, cost_s: float) -> int:
        """Choose the length of the next slice.

        It is the longest that is decoded while the listener still has audio. Where none is, it is the shortest whose
        sound lasts until the next but smallest is there: a first chunk followed by silence is no early one.

        Args:
            start: First frame of the window, less than `num_frames`.
            num_frames: Frames of the segment.
            lead_s: Seconds of audio that the listener has in hand.
            cost_s: Seconds that a frame of a slice takes.

        Returns:
            Frames of the slice, at most `num_frames`.
        """
        sizes = self._sizes(start, num_frames)
        steady_s = self._steady * cost_s
        patience_s = min(lead_s * SHARE, max(self._longest_s, steady_s))
        if fitting := [size for size in sizes if size * cost_s <= patience_s]:
            return fitting[-1]
        needed_s = min(steady_s / SHARE, STEADY * self._frame_s)
        for size in sizes:
            if (self.place(start, num_frames, size)[1] - start) * self._frame_s >= needed_s:
                return size
        return sizes[-1]

    def place(self, start: int, num_frames: int, size: int) -> tuple[int, int]:
        """Place a slice.

        Args:
            start: First frame of the window.
            num_frames: Frames of the segment.
            size: Frames of the slice, from `choose`.

        Returns:
            First frame of the slice, and the frame after the last one of the window.
        """
        left = max(0, min(start - self._before, num_frames - size))
        right = left + size
        return left, right if right == num_frames else right - self._after

    def _sizes(self, start: int, num_frames: int) -> list[int]:
        """Lengths that are worth their halo, shortest first; the last is the first that reaches the end, if any."""
        sizes: list[int] = []
        for length in self._candidates(start, num_frames):
            stop = self.place(start, num_frames, length)[1]
            is_early = start < self._before and stop - start >= SMALLEST
            if stop == num_frames:
                return [*sizes, length]
            if is_early or length >= self._steady:
                sizes.append(length)
        return sizes

    def _candidates(self, start: int, num_frames: int) -> Sequence[int]:
        if self._is_fixed:
            fixed = [length for length in self.lengths if length <= num_frames]
            return fixed if num_frames >= self._steady else [*fixed, num_frames]
        left = max(0, start - self._before)
        rest = num_frames - left
        return [rest if rest <= length + length // 4 else length for length in self.lengths]
