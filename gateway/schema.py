"""The JSON that clients send and get, in OpenAI's shapes; checks form, not whether a model can do it."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gateway.errors import ApiError
from gateway.settings import INSTRUCTIONS_CHARS

MAX_SEED = 2**63 - 1
MAX_ID_CHARS = 256


def _text(value: object) -> object:
    """Refuse text that no speech engine, and no protobuf string, can take."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"it has half a surrogate pair at character {error.start}; send valid Unicode") from error
        if "\0" in value:
            raise ValueError(f"it has a NUL at character {value.index(chr(0))}; send text without it")
    return value


Text = Annotated[str, BeforeValidator(_text)]


class VoiceReference(BaseModel):
    """A voice by its id, the form that OpenAI uses for custom voices."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: Text = Field(max_length=256)


class SpeechRequest(BaseModel):
    """Body of `POST /v1/audio/speech`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    input: Text = Field(description="The text to speak.")
    model: Text | None = Field(None, max_length=MAX_ID_CHARS, description="A model id, or one of OpenAI's model names.")
    voice: Annotated[Text, Field(max_length=256)] | VoiceReference | None = Field(
        None, description="A voice of the model, or one of OpenAI's voices."
    )
    response_format: Literal["wav", "pcm"] | None = Field(None, description="Format of the audio.")
    format: Literal["wav", "pcm"] | None = Field(None, description="Another name of `response_format`.")
    speed: float | None = Field(None, ge=0.25, le=4.0, description="Pace; 1 is the model's own.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Fixes what is random.")
    stream: bool | None = Field(None, description="False for the whole file at once; streamed otherwise.")
    stream_format: Literal["audio"] | None = Field(None, description="`audio`: the body is the audio itself.")
    instructions: Text | None = Field(None, max_length=INSTRUCTIONS_CHARS, description="How to speak; see the README.")

    @property
    def voice_name(self) -> str:
        """Name of the voice; empty if the request leaves it open."""
        return (self.voice.id if isinstance(self.voice, VoiceReference) else self.voice) or ""


def parse_speech(body: bytes, max_input_chars: int) -> SpeechRequest:
    """Read the body of a speech request.

    Args:
        body: As received.
        max_input_chars: Most characters of `input`.

    Raises:
        ApiError: It is no JSON, or a field is wrong; the message names the field, the value and what is accepted.
    """
    try:
        data = json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = f"it is not UTF-8: {error}" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ApiError("INVALID_REQUEST", f"the body must be a JSON object; {reason}") from error
    if not isinstance(data, dict):
        raise ApiError("INVALID_REQUEST", f"the body must be a JSON object, not {_shown(data)}")
    for name in data.keys() - SpeechRequest.model_fields.keys():
        known = ", ".join(SpeechRequest.model_fields)
        raise ApiError(
            "INVALID_REQUEST", f"{_shown(name)} is not a field of a speech request; there are {known}", param=name[:80]
        )
    try:
        request = SpeechRequest.model_validate(data)
    except ValidationError as error:
        raise _from_validation(error) from error
    if not request.input.strip():
        raise ApiError("INVALID_REQUEST", "`input` is empty; it must hold some text to speak", param="input")
    if len(request.input) > max_input_chars:
        raise ApiError(
            "INVALID_REQUEST",
            f"`input` has {len(request.input)} characters; at most {max_input_chars} are accepted",
            param="input",
        )
    if request.format and request.response_format and request.format != request.response_format:
        raise ApiError(
            "INVALID_REQUEST",
            f"`format` is {request.format!r} and `response_format` is {request.response_format!r}; give one of them",
            param="format",
        )
    return request


def _from_validation(error: ValidationError) -> ApiError:
    wrong = error.errors(include_url=False)[0]
    # A union reports every member that did not fit; their names are no part of the path that the client knows.
    path = [str(part) for part in wrong["loc"] if part != "VoiceReference" and "[" not in str(part)]
    param = ".".join(path)
    if wrong["type"] == "missing":
        message = f"`{param}` is missing; it is required"
    elif param == "voice" and "too_long" not in wrong["type"]:
        message = f"`voice` is {_shown(wrong['input'])}; it must be a string or an object with an `id`"
    else:
        rule = wrong["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        message = f"`{param}` is {_shown(wrong['input'])}: {rule}"
    return ApiError("INVALID_REQUEST", message, param=param)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def model_object(name: str, created: int, **more: object) -> dict[str, Any]:
    """Write a model as OpenAI's model object."""
    return {"id": name, "object": "model", "created": created, "owned_by": name.split("/")[0], **more}
