import io
import wave

import numpy as np
import pytest
import soundfile

from gateway.audio.encode import PcmEncoder, WavEncoder
from gateway.audio.resample import Resampler
from gateway.audio.wav import wav_header


def sine(rate_hz: int, seconds: float, pitch_hz: float = 440.0) -> bytes:
    t = np.arange(int(rate_hz * seconds)) / rate_hz
    return (16000 * np.sin(2 * np.pi * pitch_hz * t)).astype("<i2").tobytes()


def test_a_header_with_a_known_length_is_what_other_readers_expect():
    pcm = sine(24_000, 0.5)
    file = wav_header(24_000, len(pcm) // 2) + pcm
    with wave.open(io.BytesIO(file)) as reader:
        assert reader.getparams()[:4] == (1, 2, 24_000, len(pcm) // 2)
        assert reader.readframes(10**6) == pcm
    samples, rate_hz = soundfile.read(io.BytesIO(file), dtype="int16")
    assert (rate_hz, samples.tobytes()) == (24_000, pcm)


def test_a_header_of_a_stream_is_44_bytes_with_sizes_that_say_unknown():
    header = wav_header(22_050)
    assert len(header) == 44
    assert header[4:8] == header[40:44] == b"\xff\xff\xff\xff"
    assert header[36:40] == b"data"


def test_a_wav_has_one_header_however_the_samples_come():
    encoder = WavEncoder(24_000)
    pcm = sine(24_000, 0.1)
    out = encoder.feed(pcm[:100]) + encoder.feed(pcm[100:]) + encoder.flush()
    assert out == wav_header(24_000) + pcm


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100, 48_000])
def test_resampling_in_pieces_loses_nothing_and_keeps_the_pitch(rate_hz):
    pcm = sine(rate_hz, 2.0)
    whole = Resampler(rate_hz, 24_000)
    at_once = whole.feed(pcm) + whole.flush()
    pieces = Resampler(rate_hz, 24_000)
    step = 2 * (rate_hz // 7)
    out = b"".join(pieces.feed(pcm[i : i + step]) for i in range(0, len(pcm), step)) + pieces.flush()
    samples = np.frombuffer(out, "<i2")
    assert out == at_once
    assert abs(len(samples) - 48_000) <= 32
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert abs(np.argmax(spectrum) * 24_000 / len(samples) - 440) < 1
    # The tail is there: the last tenth of a second is as loud as the rest.
    assert samples[-2400:-240].astype(float).std() == pytest.approx(
        samples[10_000:20_000].astype(float).std(), rel=0.02
    )


def test_pcm_at_24_khz_passes_untouched():
    encoder = PcmEncoder(24_000)
    pcm = sine(24_000, 0.1)
    assert encoder.feed(pcm) + encoder.flush() == pcm


def test_pcm_of_another_rate_comes_out_at_24_khz():
    encoder = PcmEncoder(22_050)
    out = encoder.feed(sine(22_050, 1.0)) + encoder.flush()
    assert abs(len(out) // 2 - 24_000) <= 32
    assert encoder.sample_rate_hz == 24_000
