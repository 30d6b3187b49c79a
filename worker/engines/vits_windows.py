"""Decides how much of a segment a VITS decoder decodes at once; counts frames and seconds, and knows no network.

A window is decoded from a slice of the latent frames: the window and, on either side, its halo, the frames that reach
into it through the convolutions. Where a slice ends with the segment it needs no halo there. So slices of one shape
need no masks, whichever segment they are of, and can be decoded as one batch.

The first audio waits for the first window, so that is small. But the smaller the windows, the more of the work is done
for their halos; so they grow as the audio that the listener has in hand does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST = 8
"""Frames of the smallest window: about a tenth of a second."""

STEADY = 16
"""Frames of the smallest window with a halo on both sides. Smaller ones take so much work that a device with many
listeners, once late, would never catch up."""

GROWTH = (32, 64, 128, 256)
"""Frames of the larger windows. On a GPU the first of them is the smallest with a halo on both sides: for smaller ones
the processor takes as long as the device, for all that it does for each row."""

HALO_COST = 1 / 4
"""Work that a frame of the halo takes, relative to one that is heard, with the published decoders."""

SHARE = 2 / 3
"""How much of the audio that a listener has in hand may pass while a window is decoded."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a slice is like; those of one shape can be decoded together.

    Attributes:
        length: Frames of the slice.
        first: First of its frames whose samples are wanted.
        stop: The frame after the last of these.
    """

    length: int
    first: int
    stop: int

    @property
    def work(self) -> float:
        """What it takes to decode it, in frames that are heard."""
        return self.stop - self.first + HALO_COST * (self.length - self.stop + self.first)


class Windows:
    """Shapes of the slices of one network on one device.

    Args:
        halo: Frames before and after a window that its samples depend on.
        frame_s: Seconds of audio in a frame.
        longest_s: How long a run may take while others wait, in seconds.
        is_fixed: Whether slices keep to a few shapes, for which work is prepared. Otherwise they end with the segment,
            and take the rest of it if that is little more.
    """

    def __init__(self, halo: tuple[int, int], frame_s: float, *, longest_s: float, is_fixed: bool) -> None:
        self._before, self._after = halo
        self._frame_s = frame_s
        self._longest_s = longest_s
        self._is_fixed = is_fixed
        both = sum(halo)
        self._worth = both + (GROWTH[0] if is_fixed else STEADY)
        self._steady = Shape(both + STEADY, self._before, self._before + STEADY)
        starts = (self._after + SMALLEST, self._after + 2 * SMALLEST)
        self._lengths = sorted({*starts, self._steady.length, *(both + frames for frames in GROWTH)})

    @property
    def shapes(self) -> Sequence[Shape]:
        """The few shapes: at the beginning of a segment and, if long enough to be there, in the middle and the end."""
        begins = [Shape(length, 0, length - self._after) for length in self._lengths]
        long = [length for length in self._lengths if length >= self._steady.length]
        middles = [Shape(length, self._before, length - self._after) for length in long]
        return [*begins, *middles, *(Shape(length, self._before, length) for length in long)]

    def choose(self, start: int, num_frames: int, lead_s: float, cost_s: float) -> Shape:
        """Choose the shape of the next slice.

        It is the longest that is decoded while the listener still has audio. Where none is, it is the shortest whose
        sound lasts until the next but smallest is there: a first chunk followed by silence is no early one.

        Args:
            start: First frame of the window, less than `num_frames`.
            num_frames: Frames of the segment.
            lead_s: Seconds of audio that the listener has in hand.
            cost_s: Seconds that a frame takes, the halo's less than others.

        Returns:
            A slice of at most `num_frames` frames.
        """
        shapes = self._worthwhile(start, num_frames)
        steady_s = self._steady.work * cost_s
        patience_s = min(lead_s * SHARE, max(self._longest_s, steady_s))
        if fitting := [shape for shape in shapes if shape.work * cost_s <= patience_s]:
            return fitting[-1]
        needed_s = min(steady_s / SHARE, GROWTH[0] * self._frame_s)
        for shape in shapes:
            if (self.place(start, num_frames, shape)[1] - start) * self._frame_s >= needed_s:
                return shape
        return shapes[-1]

    def place(self, start: int, num_frames: int, shape: Shape) -> tuple[int, int]:
        """Place a slice.

        Args:
            start: First frame of the window.
            num_frames: Frames of the segment.
            shape: That of the slice, from `choose`.

        Returns:
            First frame of the slice, and the frame after the last one of the window.
        """
        left = self._left(start, num_frames, shape.length)
        return left, left + shape.stop

    def _left(self, start: int, num_frames: int, length: int) -> int:
        return max(0, min(start - self._before, num_frames - length))

    def _shape(self, start: int, num_frames: int, length: int) -> Shape:
        left = self._left(start, num_frames, length)
        first = start - left
        if self._is_fixed:
            first = self._before if left else 0
        return Shape(length, first, length if left + length == num_frames else length - self._after)

    def _worthwhile(self, start: int, num_frames: int) -> list[Shape]:
        """Shapes that are worth their halo, least work first; the last is the first that reaches the end, if any."""
        shapes: list[Shape] = []
        candidates = self._candidates(start, num_frames)
        least = min(self._worth, max(candidates))
        for length in candidates:
            shape = self._shape(start, num_frames, length)
            stop = self.place(start, num_frames, shape)[1]
            is_early = start < self._before and stop - start >= SMALLEST
            if stop == num_frames:
                return [*shapes, shape]
            if is_early or length >= least:
                shapes.append(shape)
        return shapes

    def _candidates(self, start: int, num_frames: int) -> Sequence[int]:
        if self._is_fixed:
            steady = self._steady.length
            usable = [length for length in self._lengths if length <= num_frames]
            fixed = [size for size in usable if size >= steady or not self._left(start, num_frames, size)]
            return fixed if num_frames >= steady else [*fixed, num_frames]
        left = max(0, start - self._before)
        rest = num_frames - left
        return [rest if rest <= length + length // 4 else length for length in self._lengths]
