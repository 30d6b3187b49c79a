"""Changes the rate of a PCM stream as it passes, with FFmpeg's resampler (through PyAV)."""

from __future__ import annotations

import av


class Resampler:
    """One stream of mono PCM16 from one rate to another; keeps the filter's state from chunk to chunk.

    Args:
        from_hz: Rate of what comes in.
        to_hz: Rate of what goes out.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._from_hz = from_hz
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=to_hz)

    def feed(self, pcm: bytes) -> bytes:
        """Take the next samples.

        Args:
            pcm: s16le [S] at `from_hz`.

        Returns:
            s16le [T] at `to_hz`: what can be told by now.
        """
        frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // 2)
        frame.sample_rate = self._from_hz
        frame.planes[0].update(pcm)
        return self._bytes(self._resampler.resample(frame))

    def flush(self) -> bytes:
        """Give back what the filter still holds; the stream has ended."""
        return self._bytes(self._resampler.resample(None))

    @staticmethod
    def _bytes(frames: list[av.AudioFrame]) -> bytes:
        # A plane is padded to its alignment; only the samples count.
        return b"".join(bytes(frame.planes[0])[: 2 * frame.samples] for frame in frames)
