"""The two stages of VITS: tokens to latent frames, and windows of these to sound; knows no text and no scheduling."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from worker.engines.base import Samples
from worker.engines.stages import Stage
from worker.engines.vits_graphs import MOST_ROWS, Graphs, rows_at_most
from worker.engines.vits_network import MOST_READINGS, Latents, Network, Reading
from worker.engines.vits_windows import Shape, Windows

if TYPE_CHECKING:
    import torch

LONGEST_CPU_S = 0.25
LONGEST_GPU_S = 0.02
"""How long a run may take while others wait for the device."""

ASSUMED_RTF = 1 / 8
"""Of the decoder, until it has been measured."""

_WEIGHT = 0.2  # Of the last run in what a frame takes.

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rest:
    """What of a segment is still to be heard.

    Attributes:
        latents: The segment.
        start: The first frame of what is left.
    """

    latents: Latents
    start: int


@dataclass(frozen=True, slots=True)
class Window:
    """What was decoded.

    Attributes:
        samples: float32 [S] in [-1, 1], those of the frames from `Rest.start` on.
        stop: The frame after the last one.
    """

    samples: Samples
    stop: int


class Encode(Stage[Reading, Latents]):
    """Makes the latent frames of whole segments.

    On a CPU one at a time: four in a batch take a tenth less than one after the other, and two threads gain more.
    """

    name = "encode"

    def __init__(self, network: Network) -> None:
        self._network = network
        is_cpu = network.device == "cpu"
        self.limit = 1 if is_cpu else MOST_READINGS
        self.is_reentrant = is_cpu  # The graphs are not.

    def run(self, items: Sequence[Reading], size: Hashable) -> Sequence[Latents]:
        self._network.prepare()
        return self._network.encode(items)


class Decode(Stage[Rest, Window]):
    """Makes sound of the next window of each segment, all in slices of the same shape.

    On a CPU one at a time: measured with a network of the size of mms-tts on one core, a frame takes 6.6 ms, alone and
    in batches of four; and two threads of one core each make 1.35 to 2 times the frames of one thread of two. Slices of
    20 to 150 frames take the same for each frame. The 1250 frames of 20 s of speech take nearly twice as much each,
    since their activations leave the caches: so with its halos a window of 32 frames costs less than its share of the
    whole.
    """

    name = "decode"

    def __init__(self, network: Network) -> None:
        is_cpu = network.device == "cpu"
        self.limit = 1 if is_cpu else MOST_ROWS
        self.is_reentrant = is_cpu  # The graphs are not.
        frame_s = network.hop_length / network.sample_rate_hz
        self._windows = Windows(
            network.halo, frame_s, longest_s=LONGEST_CPU_S if is_cpu else LONGEST_GPU_S, is_fixed=not is_cpu
        )
        self._network = network
        self._graphs = None if is_cpu else Graphs(network.decode, network.device, self._windows.shapes)
        self._cost_s = frame_s * ASSUMED_RTF
        """Seconds that a run takes for each frame of `Shape.work`, lately; threads may lose each other's figures."""

    def size(self, item: Rest, lead_s: float) -> Shape:
        """Choose the shape of the slice."""
        return self._windows.choose(item.start, item.latents.num_frames, lead_s, self._cost_s)

    def run(self, items: Sequence[Rest], size: Hashable) -> Sequence[Window]:
        """Decode a window of each."""
        assert isinstance(size, Shape)
        places = [self._windows.place(item.start, item.latents.num_frames, size) for item in items]
        slices = [
            Latents(item.latents.frames[..., left : left + size.length], item.latents.speaker)
            for item, (left, _) in zip(items, places, strict=True)
        ]
        if self._graphs:
            self._graphs.prepare(slices[0].frames, slices[0].speaker)
        started = time.perf_counter()
        rows = self._decode(slices, size)
        self._cost_s += _WEIGHT * ((time.perf_counter() - started) / size.work - self._cost_s)
        hop_length = self._network.hop_length
        return [
            Window(row[(item.start - left - size.first) * hop_length :], stop)
            for row, item, (left, stop) in zip(rows, items, places, strict=True)
        ]

    def _decode(self, slices: Sequence[Latents], shape: Shape) -> list[Samples]:
        """Decode slices of one shape; float32 [S] of each, the samples of the frames that are wanted."""
        import torch

        heard = []
        for batch in chunks(slices, rows_at_most(shape.length)):
            frames = torch.cat([each.frames for each in batch])
            speakers = [each.speaker for each in batch if each.speaker is not None]
            embeddings = torch.cat(speakers) if speakers else None
            keep = shape.first, shape.stop
            heard.append(_fetch((self._graphs or self._network.decode)(frames, embeddings, keep)))
        if self._graphs:
            torch.cuda.current_stream(self._network.device).synchronize()
        return [row for samples in heard for row in samples.numpy().copy()]


def _fetch(samples: torch.Tensor) -> torch.Tensor:
    """Bring samples to the host: those of a GPU will be there when the stream has come so far."""
    if samples.device.type == "cpu":
        return samples
    import torch

    host = torch.empty(samples.shape, dtype=samples.dtype, pin_memory=True)
    return host.copy_(samples, non_blocking=True)


def chunks(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts of at most `most` items."""
    return (items[k : k + most] for k in range(0, len(items), most))
