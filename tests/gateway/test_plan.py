"""What of a request is the model's part and what is left for the gateway."""

from pathlib import Path

import pytest

from gateway.catalogue import Catalogue
from gateway.errors import ApiError
from gateway.fleet.fleet import Fleet
from gateway.hub import HubList
from gateway.plan import Plan, usage
from gateway.schema import SpeechRequest
from gateway.settings import Settings
from gateway.voices import VoiceStore
from protos.tts.v1 import speech_pb2
from tests.sounds import phrase


def plan(**asked: object) -> Plan:
    settings = Settings(data_dir=Path("/nowhere"))
    catalogue = Catalogue(Fleet(()), HubList(Path("/nowhere"), 1.0), settings)
    request = SpeechRequest(input="one", response_format="pcm", **asked)
    return Plan(request, "", catalogue, VoiceStore(Path("/nowhere"), 1), settings)


def header(speed: float) -> speech_pb2.StreamHeader:
    """What a worker says, as it comes over the wire."""
    sent = speech_pb2.StreamHeader(speed=speed)
    sent.format.sample_rate_hz = 24_000
    return speech_pb2.StreamHeader.FromString(sent.SerializeToString())


@pytest.mark.parametrize("speed", [0.7, 1.0, 1.1, 1.2, 3.3])
def test_a_pace_that_the_model_speaks_itself_is_not_stretched_again(speed):
    pcm = phrase(24_000, 0.5)
    encoder = plan(speed=speed).encoder(header(speed))
    assert encoder.feed(pcm) + encoder.flush() == pcm


@pytest.mark.parametrize(
    ("asked", "spoken", "rest"), [(4.0, 2.0, 2.0), (0.25, 0.5, 0.5), (None, 1.0, 1.0), (1.3, 1, 1.3)]
)
def test_what_the_model_cannot_do_of_the_pace_is_left_to_the_stretch(asked, spoken, rest):
    pcm = phrase(24_000, 2.0)
    there = plan(speed=asked)
    assert there.tempo(header(spoken)) == pytest.approx(rest)
    encoder = there.encoder(header(spoken))
    num_samples = len(encoder.feed(pcm) + encoder.flush()) // 2
    assert 0 <= num_samples - 2.0 * 24_000 / rest <= 2048


def test_a_rate_that_the_format_has_not_is_refused_before_a_worker_is_asked():
    with pytest.raises(ApiError, match=r"23456; pcm carries 8000, 11025") as caught:
        plan(sample_rate=23_456)
    assert caught.value.param == "sample_rate"


def test_a_token_is_a_character_or_50_ms_begun():
    assert usage(3, 0.101) == {"input_tokens": 3, "output_tokens": 3, "total_tokens": 6}
    assert usage(0, 0.0) == {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
