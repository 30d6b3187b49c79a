"""Changes rate and tempo of a PCM stream as it passes, by a filter graph of FFmpeg; knows no format and no file.

    s16 → asetnsamples → atempo, as often as needed → aresample → s16

The filters keep their state from chunk to chunk, so where the stream is cut leaves no trace in the result. At its end
they are fed silence until all that they hold has come out, and the silence is cut off again.
"""

from __future__ import annotations

import math
from fractions import Fraction

import av
from av.error import BlockingIOError, EOFError  # noqa: A004
from av.filter import Graph

TEMPOS = (0.125, 8.0)
"""Slowest and fastest tempo."""

FILTER_TAPS = 96
"""Length of the resampler's filter, in samples of the lower rate."""

RESAMPLING = {
    # Measured with sines near full scale: flat within 0.03 dB up to 0.9 of half the lower rate; aliases and images from
    # 1.02 of that half on are below -99 dB, where the rounding to 16 bits is.
    "filter_size": str(FILTER_TAPS),
    "cutoff": "0.95",
    "filter_type": "kaiser",
    "kaiser_beta": "10",
    # A filter for each phase that occurs, up to 4096: no two rates of any format have more, so none is rounded.
    "phase_shift": "12",
    "exact_rational": "1",
    "internal_sample_fmt": "fltp",  # In integers the filter would be rounded too, which costs 15 dB.
}

BLOCK_S = 0.04
"""Seconds of audio that `atempo` gets at once: its result depends on that a little, so chunks must not decide it."""

WINDOW_S = 1 / 12
"""Longest window of `atempo`: a 24th of a second, rounded up to a power of two of samples."""


class Converter:
    """One stream of mono PCM16 on its way to another rate, another tempo, or both; the pitch stays.

    Args:
        from_hz: Rate of what comes in.
        to_hz: Rate of what goes out.
        tempo: How much faster the result is, within `TEMPOS`.
    """

    def __init__(self, from_hz: int, to_hz: int, tempo: float = 1.0) -> None:
        self._from_hz = from_hz
        self._ratio = Fraction(to_hz, from_hz) / Fraction(tempo)
        self._tempos = _factors(tempo)
        self._samples_in = 0
        self._samples_out = 0
        self._graph = _graph(from_hz, to_hz, self._tempos) if from_hz != to_hz or self._tempos else None
        windows = 2 * len(self._tempos) * max(1.0, tempo)
        self._tail_samples = math.ceil(windows * WINDOW_S * from_hz + FILTER_TAPS * max(1.0, from_hz / to_hz))

    def feed(self, pcm: bytes) -> bytes:
        """Take the next samples.

        Args:
            pcm: s16le [S] at `from_hz`.

        Returns:
            s16le [T] at `to_hz`: what can be told by now.
        """
        if not self._graph or not pcm:
            return pcm
        self._push(pcm)
        out = self._pull()
        self._samples_out += len(out) // 2
        return out

    def flush(self) -> bytes:
        """End the stream.

        Returns:
            s16le [T] at `to_hz`: the rest. With it the whole has as many samples as went in, by the ratio of the rates
            and the tempo, rounded up; where the tempo changes, up to a window more if something sounds there.
        """
        if not self._graph or not self._samples_in:
            return b""
        num_left = max(0, math.ceil(self._samples_in * self._ratio) - self._samples_out)
        self._push(bytes(2 * self._tail_samples))
        self._graph.push(None)
        out = self._pull()
        if self._tempos:
            num_left = max(num_left, (len(out.rstrip(b"\0")) + 1) // 2)
        return out[: 2 * num_left]

    def _push(self, pcm: bytes) -> None:
        assert self._graph
        self._graph.push(pcm_frame(pcm, self._from_hz, self._samples_in))
        self._samples_in += len(pcm) // 2

    def _pull(self) -> bytes:
        assert self._graph
        pieces: list[bytes] = []
        while True:
            try:
                frame = self._graph.pull()
            except (BlockingIOError, EOFError):
                return b"".join(pieces)
            assert isinstance(frame, av.AudioFrame)
            # A plane is padded to its alignment; only the samples count.
            pieces.append(bytes(memoryview(frame.planes[0])[: 2 * frame.samples]))


def pcm_frame(pcm: bytes, sample_rate_hz: int, first_sample: int) -> av.AudioFrame:
    """Wrap samples in FFmpeg's frame.

    Args:
        pcm: s16le [S], mono, S > 0.
        sample_rate_hz: Its rate.
        first_sample: Index of its first sample in the stream.
    """
    frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // 2)
    frame.planes[0].update(pcm)
    frame.sample_rate = sample_rate_hz
    frame.time_base = Fraction(1, sample_rate_hz)
    frame.pts = first_sample
    return frame


def _factors(tempo: float) -> list[float]:
    """Split a tempo into equal factors within 0.5..2: below that `atempo` refuses, above it leaves samples out."""
    if tempo == 1.0:
        return []
    count = max(1, math.ceil(abs(math.log2(tempo))))
    return [tempo ** (1 / count)] * count


def _graph(from_hz: int, to_hz: int, tempos: list[float]) -> Graph:
    graph = Graph()
    graph.threads = 1  # A chunk is too small to be shared out.
    nodes = [graph.add_abuffer(sample_rate=from_hz, format="s16", layout="mono")]
    if tempos:
        nodes.append(graph.add("asetnsamples", n=str(round(BLOCK_S * from_hz)), p="0"))
        nodes += [graph.add("atempo", tempo=repr(tempo)) for tempo in tempos]
    if from_hz != to_hz:
        nodes.append(graph.add("aresample", sample_rate=str(to_hz), **RESAMPLING))
    nodes.append(graph.add("aformat", sample_fmts="s16", channel_layouts="mono"))
    nodes.append(graph.add("abuffersink"))
    graph.link_nodes(*nodes).configure()
    return graph
