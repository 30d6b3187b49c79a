"""What a request can ask of a model, over gRPC: language, instructions, a recording to imitate, pace."""

import grpc
import numpy as np
import pytest

from protos.tts.v1 import speech_pb2, speech_pb2_grpc
from tests.contract.test_worker import details
from tests.stack import HIBARI, TONE

GIFTED = "sonorant/tone-22k"
"""The model that takes instructions and imitates recordings, by their pitch."""


@pytest.fixture
def speak(stack):
    """Speak and give header, samples (16 bits, mono) and summary."""
    with grpc.insecure_channel(stack.worker.address) as channel:
        stub = speech_pb2_grpc.SpeechServiceStub(channel)

        def speak(**request):
            messages = list(stub.Synthesize(speech_pb2.SynthesizeRequest(**{"input": "one", **request})))
            pcm = b"".join(message.audio.pcm for message in messages)
            return messages[0].header, np.frombuffer(pcm, "<i2"), messages[-1].summary

        yield speak


def refusal(speak, **request) -> tuple[str, str, str]:
    """Reason, field and message of the error that a request gets."""
    with pytest.raises(grpc.RpcError) as caught:
        speak(**request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = details(caught.value)
    return found["reason"], found["field"], caught.value.details()


def recording(
    pitch_hz: float = 330.0, *, seconds: float = 1.0, rate_hz: int = 16_000, peak: float = 0.5, **fields
) -> speech_pb2.ReferenceAudio:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    pcm = np.round(32767 * peak * np.sin(2 * np.pi * pitch_hz * t)).astype("<i2").tobytes()
    return speech_pb2.ReferenceAudio(**{"voice": "voice-1", "pcm": pcm, "sample_rate_hz": rate_hz, **fields})


def pitch_of(samples: np.ndarray, rate_hz: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * rate_hz / len(samples)


@pytest.mark.parametrize("language", ["en", "en-US", "EN-us", "en-GB", "en-AU"])
@pytest.mark.parametrize("voice", ["", "heart"])
def test_a_voice_speaks_its_language_in_whatever_region_is_asked_for(speak, voice, language):
    header, samples, _ = speak(model=HIBARI, voice=voice, language=language)
    assert (header.voice, len(samples) > 0) == ("heart", True)


@pytest.mark.parametrize("language", ["de", "e", "english", "en_US", "💬", "x" * 20_000])
@pytest.mark.parametrize(("voice", "who"), [("", "the model"), ("heart", "the voice 'heart'")])
def test_a_language_that_nobody_speaks_is_refused_with_those_that_there_are(speak, voice, who, language):
    reason, field, message = refusal(speak, model=HIBARI, voice=voice, language=language)
    assert (reason, field) == ("UNSUPPORTED_OPTION", "language")
    assert language[:30] in message
    assert len(message) < 1100
    if len(language) < 100:
        assert who in message
        assert message.endswith("speaks en-US")


def test_a_voice_of_no_certain_language_is_trusted_with_any(speak):
    assert speak(model=TONE, language="ta-IN")[0].voice == "low"


def test_a_name_for_every_model_is_one_of_the_voices_that_speak_the_language(speak):
    heard = [speak(model=TONE, voice="nova", voice_place=place, language="de")[0].voice for place in range(4)]
    assert heard == ["low", "high", "low", "high"]


def test_instructions_are_followed_by_a_model_that_takes_them(speak):
    """An order: every word shall sound for a third of a second."""
    header, samples, _ = speak(model=GIFTED, input="one two", instructions="<long=0.3>")
    assert (list(header.ignored), len(samples)) == ([], 2 * 6615)


def test_instructions_are_ignored_by_the_others_and_the_header_says_so(speak):
    header, samples, _ = speak(model=TONE, input="one two", instructions="<long=0.3>")
    assert (list(header.ignored), len(samples)) == (["instructions"], 2 * 2400)
    assert list(speak(model=TONE)[0].ignored) == []


@pytest.mark.parametrize(("seconds", "rate_hz"), [(1.0, 8000), (1.0, 16_000), (30.0, 48_000), (2.5, 11_025)])
def test_a_recording_is_imitated_and_the_header_names_its_voice(speak, seconds, rate_hz):
    header, samples, _ = speak(model=GIFTED, reference=recording(330, seconds=seconds, rate_hz=rate_hz))
    assert header.voice == "voice-1"
    assert pitch_of(samples, 22_050) == pytest.approx(330, abs=6)
    assert pitch_of(speak(model=GIFTED)[1], 22_050) == pytest.approx(220, abs=6)


@pytest.mark.parametrize("peak", [0.0, 1.0])
def test_silence_and_full_scale_are_recordings_too(speak, peak):
    assert len(speak(model=GIFTED, reference=recording(peak=peak))[1]) == 2205


@pytest.mark.parametrize(
    ("fields", "changes", "reason", "field", "words"),
    [
        ({}, {"model": TONE}, "UNSUPPORTED_OPTION", "voice", ["cannot imitate", "'voice-1'", "low, high"]),
        ({}, {"voice": "low"}, "INVALID_REQUEST", "reference", ["no voice"]),
        ({"voice": ""}, {}, "INVALID_REQUEST", "reference", ["id in `voice`"]),
        ({"sample_rate_hz": 0}, {}, "INVALID_REQUEST", "reference", ["is 0", "8000 to 48000"]),
        ({"sample_rate_hz": 7999}, {}, "INVALID_REQUEST", "reference", ["7999"]),
        ({"sample_rate_hz": 48_001}, {}, "INVALID_REQUEST", "reference", ["48001"]),
        ({"sample_rate_hz": 2**32 - 1}, {}, "INVALID_REQUEST", "reference", ["4294967295"]),
        ({"pcm": b""}, {}, "INVALID_REQUEST", "reference", ["0.00 s in 0 bytes", "1 to 30 s"]),
        ({"pcm": bytes(31_998)}, {}, "INVALID_REQUEST", "reference", ["31998 bytes"]),
        ({"pcm": bytes(32_001)}, {}, "INVALID_REQUEST", "reference", ["32001 bytes", "16-bit"]),
        ({"pcm": bytes(960_002)}, {}, "INVALID_REQUEST", "reference", ["30.00 s", "960002"]),
        ({"transcript": "a" * 2049}, {}, "INVALID_REQUEST", "reference", ["2049", "2048"]),
    ],
)
def test_a_recording_that_cannot_be_used_is_refused_by_what_is_wrong_with_it(
    speak, fields, changes, reason, field, words
):
    found, where, message = refusal(speak, **{"model": GIFTED, "reference": recording(**fields), **changes})
    assert (found, where) == (reason, field)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("asked", "spoken"), [(1.0, 1.0), (0.5, 0.5), (2.0, 2.0), (0.25, 0.5), (4.0, 2.0), (1e-30, 0.5), (1e30, 2.0)]
)
def test_the_nearest_pace_is_taken_where_the_caller_does_the_rest(speak, asked, spoken):
    header, samples, summary = speak(model=TONE, input="one two", speed=asked, nearest_speed=True)
    assert header.speed == spoken
    assert len(samples) == summary.total_samples == round(2 * 2400 / spoken)


def test_the_header_says_at_which_pace_a_model_speaks(speak):
    assert speak(model=TONE)[0].speed == 1.0
    assert speak(model=TONE, nearest_speed=True)[0].speed == 1.0
    assert speak(model=HIBARI, speed=0.8)[0].speed == pytest.approx(0.8)
    assert speak(model=HIBARI, speed=2.0, nearest_speed=True)[0].speed == 1.0


@pytest.mark.parametrize("nearest_speed", [False, True])
@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf"), float("-inf")])
def test_what_is_no_pace_is_refused(speak, speed, nearest_speed):
    reason, field, message = refusal(speak, model=TONE, speed=speed, nearest_speed=nearest_speed)
    assert (reason, field) == ("UNSUPPORTED_OPTION", "speed")
    assert "0.5 to 2" in message


@pytest.mark.parametrize(
    ("text", "pause_s"), [("One.", 0.32), ("one", 0.32), ("One. Two.", 0.32), ("One.\n\n", 0.6), ("one, two,", 0.12)]
)
def test_the_summary_tells_the_pause_after_the_end_which_is_not_spoken(speak, text, pause_s):
    _, samples, summary = speak(model=TONE, input=text)
    assert summary.pause.ToTimedelta().total_seconds() == pytest.approx(pause_s)
    assert np.abs(samples[-1000:].astype(int)).max() > 1000


def test_the_pause_keeps_to_the_pace(speak):
    summary = speak(model=TONE, input="One.", speed=2.0)[2]
    assert summary.pause.ToTimedelta().total_seconds() == pytest.approx(0.16)


def test_the_client_for_internal_callers_asks_for_all_of_it(stack):
    asked = {"language": "de", "instructions": "<long=0.3>", "speed": 4.0, "nearest_speed": True}
    with (
        stack.worker.client() as client,
        client.synthesize("one two", model=GIFTED, reference=recording(330), **asked) as speech,
    ):
        samples = np.frombuffer(b"".join(speech), "<i2")
    assert (speech.header.voice, speech.header.speed, list(speech.header.ignored)) == ("voice-1", 2.0, [])
    assert len(samples) == 2 * 6615
    assert pitch_of(samples[:6615], 22_050) == pytest.approx(330, abs=6)
    with stack.worker.client() as client, pytest.raises(grpc.RpcError, match="'de'"):
        client.synthesize("one", model=HIBARI, language="de")
