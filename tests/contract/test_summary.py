"""What a worker tells of an utterance that is over, as a direct gRPC caller sees it."""

import grpc
import pytest

from protos.tts.v1 import speech_pb2, speech_pb2_grpc
from tests.stack import HIBARI, TONE


@pytest.fixture
def speech(stack):
    with grpc.insecure_channel(stack.worker.address) as channel:
        yield speech_pb2_grpc.SpeechServiceStub(channel)


def summary_of(speech, **request: object) -> speech_pb2.StreamSummary:
    *_, last = speech.Synthesize(speech_pb2.SynthesizeRequest(**request))
    return last.summary


def test_the_summary_tells_what_each_stage_did_and_for_how_many(speech):
    told = summary_of(speech, model=TONE, input="one two three. four")
    (stage,) = told.stages
    # A step for every word, and one in which a segment is found to be over.
    assert (stage.name, stage.runs, stage.batch_size) == ("step", 4 + 2, 1.0)
    assert stage.time.ToNanoseconds() > 0
    assert told.queue_time.ToNanoseconds() >= 0
    told = summary_of(speech, model=HIBARI, input="One. Two.")
    assert {each.name: each.batch_size for each in told.stages} == {"synthesis": 1.0}
    # The steps between the stages are work, too.
    assert told.synthesis_time.ToNanoseconds() >= sum(each.time.ToNanoseconds() for each in told.stages) > 0


@pytest.mark.parametrize(("delivery", "underruns"), [("DELIVERY_LIVE", 2), ("DELIVERY_WHOLE", 0)])
def test_the_summary_tells_how_often_the_listener_ran_dry_if_there_was_one(speech, delivery, underruns):
    # A word is 0.1 s of speech.
    text = "one <delay=0.6> <delay=0.6>"
    told = summary_of(speech, model=TONE, input=text, delivery=speech_pb2.Delivery.Value(delivery))
    assert told.underruns == underruns
    assert bool(told.underrun_time.ToNanoseconds()) == bool(underruns)


def test_whoever_asks_has_a_name_of_at_most_128_characters(speech):
    assert summary_of(speech, model=TONE, input="one", tenant="t" * 128).total_samples
    with pytest.raises(grpc.RpcError) as caught:
        summary_of(speech, model=TONE, input="one", tenant="t" * 129)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "`tenant` has 129 characters; at most 128" in caught.value.details()
