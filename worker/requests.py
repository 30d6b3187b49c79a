"""Reads requests: checks what is wrong whatever the model, and finds out what the rest means for one model."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from protos.tts.v1 import speech_pb2
from worker.audio import from_s16le
from worker.engines.base import Card, Model, Reference, Settings, Voice, is_same_language
from worker.errors import InvalidRequest, UnsupportedOption, VoiceNotFound
from worker.wire import options_schema

MAX_REQUEST_ID = 128
MAX_TENANT = 128
MOST_NAMED = 60
"""How many voices an error names."""

LEAST_REFERENCE_S, MOST_REFERENCE_S = 1.0, 30.0
MOST_TRANSCRIPT = 2048
"""Characters, far more than are said in 30 s."""

LEAST_RATE_HZ, MOST_RATE_HZ = 8000, 48_000


def check(request: speech_pb2.SynthesizeRequest) -> None:
    """Refuse what is wrong whatever the model.

    Raises:
        InvalidRequest: Names the field.
    """
    if len(request.request_id) > MAX_REQUEST_ID:
        raise InvalidRequest(
            f"`request_id` has {len(request.request_id)} characters; at most {MAX_REQUEST_ID} are taken",
            field="request_id",
        )
    if len(request.tenant) > MAX_TENANT:
        raise InvalidRequest(
            f"`tenant` has {len(request.tenant)} characters; at most {MAX_TENANT} are taken", field="tenant"
        )
    if not request.input.strip():
        raise InvalidRequest("`input` is empty; it must hold some text to speak", field="input")
    if request.delivery not in speech_pb2.Delivery.values():
        raise InvalidRequest(f"`delivery` is {request.delivery}; it must be a value of Delivery", field="delivery")
    if request.encoding not in speech_pb2.AudioEncoding.values():
        raise InvalidRequest(f"`encoding` is {request.encoding}; it must be a value of AudioEncoding", field="encoding")


def settings_of(request: speech_pb2.SynthesizeRequest, name: str, model: Model) -> Settings:
    """Find out how a model is to speak an utterance.

    Args:
        request: As sent.
        name: The model's id, for messages.
        model: The model.

    Raises:
        InvalidRequest: A field is wrong whatever the model.
        UnsupportedOption: The model does not take some option, or not that value of it.
        VoiceNotFound: It has no such voice.
    """
    return Settings(
        _voice(request, name, model),
        _speed(request, name, model.card),
        request.seed if request.HasField("seed") else secrets.randbits(63),
        _options(request.options, model.card, name),
        request.instructions if model.card.takes_instructions else "",
        _reference(request, name, model.card),
    )


def _speed(request: speech_pb2.SynthesizeRequest, name: str, card: Card) -> float:
    speed = request.speed if request.HasField("speed") else 1.0
    slowest, fastest = card.speeds
    if slowest <= speed <= fastest:
        return speed
    if request.nearest_speed and 0 < speed < math.inf:
        return min(max(speed, slowest), fastest)
    raise UnsupportedOption(f"`speed` is {speed:g}; the model {name!r} takes {slowest:g} to {fastest:g}", field="speed")


def _voice(request: speech_pb2.SynthesizeRequest, name: str, model: Model) -> str:
    voices = model.card.voices
    named = model.find_voice(request.voice) if request.voice else None
    if request.voice and not named and not request.HasField("voice_place"):
        ids = [voice.id for voice in voices]
        raise VoiceNotFound(f"the model {name!r} has no voice {request.voice!r}; it has {_listed(ids)}", field="voice")
    candidates = [named] if named else list(voices)
    if request.language:
        speaking = [(voice, found) for voice in candidates if (found := model.voice_in(voice, request.language))]
        if not speaking:
            languages = _listed(sorted({*(voice.language for voice in candidates), *model.languages}))
            who = f"the voice {named.id!r}" if named else f"the model {name!r}"
            raise UnsupportedOption(f"`language` is {request.language!r}; {who} speaks {languages}", field="language")
        # Those whose own dialect it is, else those whose own language it is, else whoever speaks it, too.
        best = max(_nearness(voice, request.language) for voice, _ in speaking)
        candidates = [found for voice, found in speaking if _nearness(voice, request.language) == best]
    return candidates[request.voice_place % len(candidates)].id


def _nearness(voice: Voice, language: str) -> int:
    if voice.language.lower() == language.lower():
        return 2
    return int(is_same_language(voice.language, language))


def _reference(request: speech_pb2.SynthesizeRequest, name: str, card: Card) -> Reference | None:
    if not request.HasField("reference"):
        return None
    given = request.reference
    if not card.cloning:
        raise UnsupportedOption(
            f"the model {name!r} cannot imitate a recording, so it cannot speak as {given.voice!r}; ask it for a voice "
            f"of its own: {_listed([voice.id for voice in card.voices])}",
            field="voice",
        )
    if not given.voice or request.voice:
        raise InvalidRequest("`reference` must have an id in `voice`, and the request no voice", field="reference")
    if card.cloning == "audio and transcript" and not given.transcript.strip():
        raise UnsupportedOption(
            f"the model {name!r} must know what is said in a recording to imitate it; {given.voice!r} has no "
            "transcript",
            field="voice",
        )
    if not LEAST_RATE_HZ <= given.sample_rate_hz <= MOST_RATE_HZ:
        raise InvalidRequest(
            f"`reference.sample_rate_hz` is {given.sample_rate_hz}; it must be {LEAST_RATE_HZ} to {MOST_RATE_HZ}",
            field="reference",
        )
    reference_s = len(given.pcm) / 2 / given.sample_rate_hz
    if len(given.pcm) % 2 or not LEAST_REFERENCE_S <= reference_s <= MOST_REFERENCE_S:
        raise InvalidRequest(
            f"`reference.pcm` has {reference_s:.2f} s in {len(given.pcm)} bytes; it must have {LEAST_REFERENCE_S:g} to "
            f"{MOST_REFERENCE_S:g} s of 16-bit samples",
            field="reference",
        )
    if len(given.transcript) > MOST_TRANSCRIPT:
        raise InvalidRequest(
            f"`reference.transcript` has {len(given.transcript)} characters; at most {MOST_TRANSCRIPT} are taken",
            field="reference",
        )
    transcript = given.transcript.encode()
    head = b"%d %d " % (given.sample_rate_hz, len(transcript))
    key = hashlib.sha256(head + transcript + given.pcm).hexdigest()
    return Reference(given.voice, from_s16le(given.pcm), given.sample_rate_hz, given.transcript, key)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} others" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _options(given: Struct, card: Card, model: str) -> dict[str, Any]:
    try:
        options: dict[str, Any] = json_format.MessageToDict(given)
    except json_format.Error as wrong:
        raise UnsupportedOption(f"`options` holds what is no JSON: {wrong}", field="options") from wrong
    if unknown := sorted(options.keys() - card.options.keys()):
        known = ", ".join(sorted(card.options)) or "none"
        raise UnsupportedOption(
            f"the model {model!r} does not know the option {unknown[0]!r}; it takes {known}", field=unknown[0]
        )
    if error := best_match(Draft202012Validator(options_schema(card)).iter_errors(options)):
        field = str(error.path[0]) if error.path else "options"
        raise UnsupportedOption(f"the option {field!r} is wrong: {error.message}", field=field)
    # A Struct knows no integers.
    return {
        name: int(value) if card.options[name].get("type") == "integer" else value for name, value in options.items()
    }


def required(value: str, field: str) -> str:
    """Insist on a model id.

    Raises:
        InvalidRequest: It is empty.
    """
    if not value:
        raise InvalidRequest(f"`{field}` is missing; it must be a model id, such as 'org/name'", field=field)
    return value


def seconds_of(message: Duration, field: str) -> float:
    """Read a time, in seconds.

    Raises:
        InvalidRequest: It is not more than 0.
    """
    seconds = message.seconds + message.nanos / 1e9
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"`{field}` is {seconds:g} s; it must be more than 0", field=field)
    return seconds
