import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.schema import parse_message, parse_speech

LIMIT = 100


def parse(body: object):
    return parse_speech(json.dumps(body).encode(), LIMIT)


def refuse(body: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_speech(body if isinstance(body, bytes) else json.dumps(body).encode(), LIMIT)
    assert caught.value.reason == "INVALID_REQUEST"
    return caught.value


def test_only_the_input_is_required():
    request = parse({"input": "Hi."})
    assert (request.input, request.model, request.voice_name) == ("Hi.", None, "")


def test_a_voice_is_a_string_or_an_object_with_an_id():
    assert parse({"input": "Hi.", "voice": "alloy"}).voice_name == "alloy"
    assert parse({"input": "Hi.", "voice": {"id": "alloy"}}).voice_name == "alloy"


def test_what_is_no_field_is_an_option_of_the_model():
    assert parse({"input": "Hi.", "temperature": 0.5, "style": {"mood": ["calm"]}}).options == {
        "temperature": 0.5,
        "style": {"mood": ["calm"]},
    }


def test_null_means_left_out():
    assert parse({"input": "Hi.", "voice": None, "speed": None, "seed": None}).speed is None


def test_an_integer_is_a_speed():
    assert parse({"input": "Hi.", "speed": 2}).speed == 2.0


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"", None, ["JSON object"]),
        (b"{", None, ["JSON object"]),
        (b"\xff\xfe", None, ["UTF-8"]),
        (b"[" * 100_000, None, ["JSON object"]),
        (b"[]", None, ["JSON object", "[]"]),
        (b'{"input": "Hi.", "speed": NaN}', None, ["NaN"]),
        (b'{"input": "Hi.", "speed": 1e999}', "speed", ["Infinity", "4"]),
        (b'{"input": "Hi.", "seed": ' + b"9" * 5000 + b"}", None, ["JSON object"]),
        ({}, "input", ["required"]),
        ({"input": None}, "input", ["null", "string"]),
        ({"input": 7}, "input", ["7", "string"]),
        ({"input": ["a"]}, "input", ['["a"]', "string"]),
        ({"input": ""}, "input", ["empty"]),
        ({"input": " \n\t\u2003"}, "input", ["empty"]),
        ({"input": "a" * 101}, "input", ["101", "100"]),
        ({"input": "a\0b"}, "input", ["NUL", "1"]),
        ({"input": "ab\ud800c"}, "input", ["surrogate", "2"]),
        ({"input": "Hi.", "voice": "\udfff"}, "voice", ["string"]),
        ({"input": "Hi.", "voice": 3}, "voice", ["3", "string", "id"]),
        ({"input": "Hi.", "voice": {}}, "voice", ["id"]),
        ({"input": "Hi.", "voice": {"id": "a", "b": 1}}, "voice", ["id"]),
        ({"input": "Hi.", "voice": "v" * 300_000}, "voice", ["at most 256 characters"]),
        ({"input": "Hi.", "k" * 300_000: 1}, "k" * 80, ["neither a field"]),
        ({"input": "Hi.", "model": 3}, "model", ["3", "string"]),
        ({"input": "Hi.", "model": "m" * 257}, "model", ["at most 256 characters"]),
        ({"input": "Hi.", "response_format": "midi"}, "response_format", ["midi", "wav", "pcm"]),
        ({"input": "Hi.", "format": "midi"}, "format", ["midi", "wav", "pcm"]),
        ({"input": "Hi.", "format": "wav", "response_format": "pcm"}, "format", ["wav", "pcm"]),
        ({"input": "Hi.", "speed": 0.2}, "speed", ["0.2", "0.25"]),
        ({"input": "Hi.", "speed": 4.1}, "speed", ["4.1", "4"]),
        ({"input": "Hi.", "speed": "fast"}, "speed", ["fast", "number"]),
        ({"input": "Hi.", "speed": True}, "speed", ["true", "number"]),
        ({"input": "Hi.", "seed": -1}, "seed", ["-1", "0"]),
        ({"input": "Hi.", "seed": 1.5}, "seed", ["1.5", "integer"]),
        ({"input": "Hi.", "stream": "yes"}, "stream", ["yes", "boolean"]),
        ({"input": "Hi.", "stream_format": "ws"}, "stream_format", ["ws", "audio", "sse"]),
        ({"input": "Hi.", "stream_format": "sse", "stream": False}, "stream", ["false", "sse"]),
        ({"input": "Hi.", "verbose": 1}, "verbose", ["1", "boolean"]),
        ({"input": "Hi.", "verbose": True}, "verbose", ["true", "null", '"sse"']),
        ({"input": "Hi.", "verbose": True, "stream_format": "audio"}, "verbose", ['"audio"', '"sse"']),
        ({"input": "Hi.", "sample_rate": "high"}, "sample_rate", ["high", "integer"]),
        ({"input": "Hi.", "language": "English, please"}, "language", ["English, please", "BCP 47", "pt-BR"]),
        ({"input": "Hi.", "instructions": "x" * 4097}, "instructions", ["at most 4096 characters"]),
        ({"input": "Hi.", "\ud800": 2}, "\ud800", ["surrogate"]),
        ({"input": "Hi.", "pitch": ["\ud800"]}, "pitch", ["surrogate"]),
        ({"input": "Hi.", "pitch": [[[[[[[[[[[[[[[[[2]]]]]]]]]]]]]]]]]}, "pitch", ["nested"]),
        ({"input": "Hi.", "pitch": {"a": [2**53 + 1]}}, "pitch", ["2^53"]),
        (b'{"input": "Hi.", "pitch": {"a": [-1e999]}}', "pitch", ["1.8e308"]),
    ],
)
def test_what_is_wrong_is_named_with_the_value_and_what_is_accepted(body, param, words):
    error = refuse(body)
    assert error.param == param
    for word in words:
        assert word in error.message
    assert len(error.message) < 400
    error.response()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        *("input", "model", "voice", "response_format", "format", "speed", "seed"),
        *("stream", "stream_format", "verbose", "instructions"),
    ]
)


@given(st.dictionaries(fields | st.text(max_size=5), json_values) | json_values)
def test_no_json_whatever_is_anything_but_accepted_or_refused(body):
    try:
        parse(body)
    except ApiError as error:
        assert error.form.status == 400
        error.response()


@given(st.binary(max_size=300))
def test_no_bytes_whatever_are_anything_but_accepted_or_refused(body):
    try:
        parse_speech(body, LIMIT)
    except ApiError as error:
        assert error.form.status == 400


@pytest.mark.parametrize("name", ["input", "stream", "stream_format", "verbose"])
def test_a_session_has_no_fields_of_a_single_request(name):
    with pytest.raises(ApiError) as caught:
        parse_message(json.dumps({"type": "session.configure", name: "x"}))
    assert caught.value.param == name
    assert "split" in caught.value.message


def test_an_empty_language_means_left_out():
    assert not parse({"input": "Hi.", "language": ""}).language
