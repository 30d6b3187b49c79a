"""The JSON that clients send and get, in OpenAI's shapes; checks form, not whether a model can do it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gateway.errors import ApiError
from gateway.settings import INSTRUCTIONS_CHARS

MAX_SEED = 2**63 - 1
MAX_ID_CHARS = 256
MAX_OPTION_NAME_CHARS = 80
MAX_OPTIONS_DEPTH = 16
MOST_EXACT = 2**53
LANGUAGE_TAG = r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$"


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


def _filled(value: str) -> str:
    if not value.strip():
        raise ValueError("it is empty; it must hold some text")
    return value


def _integer(value: object) -> object:
    """Take 24000.0 for 24000: JSON and its schemas make no difference between them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# What the validators refuse, the JSON Schema says too.
Text = Annotated[str, BeforeValidator(_text), Field(json_schema_extra={"pattern": r"^[^\x00]*$"})]
Filled = Annotated[
    str,
    BeforeValidator(_text),
    AfterValidator(_filled),
    Field(json_schema_extra={"pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"}),
]
Integer = Annotated[int, BeforeValidator(_integer)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), BeforeValidator(_integer)]


class VoiceReference(BaseModel):
    """A voice by its id, the form that OpenAI uses for custom voices."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: Text = Field(max_length=256)


FORMATS = ("wav", "mp3", "opus", "aac", "flac", "pcm")
Format = Literal["wav", "mp3", "opus", "aac", "flac", "pcm"]


class SpeechOptions(BaseModel):
    """How to speak: what every way of asking for speech has in common.

    Fields beside these are options of the model's engine; the worker knows them.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    model: Text | None = Field(None, max_length=MAX_ID_CHARS, description="A model id, or one of OpenAI's model names.")
    voice: Annotated[Text, Field(max_length=256)] | VoiceReference | None = Field(
        None, description="A voice of the model, or one of OpenAI's voices."
    )
    response_format: Format | None = Field(None, description="Format of the audio.")
    format: Format | None = Field(None, description="Another name of `response_format`.")
    sample_rate: Integer | None = Field(None, description="Samples per second, in Hz; what the format can carry.")
    speed: float | None = Field(None, ge=0.25, le=4.0, description="Pace; 1 is the model's own.")
    seed: Seed | None = Field(None, description="Fixes what is random.")
    language: str | None = Field(
        None,
        max_length=35,
        pattern=f"^$|{LANGUAGE_TAG}",
        description="Language of the text, as a BCP 47 tag such as `pt-BR`.",
    )
    instructions: Text | None = Field(
        None, max_length=INSTRUCTIONS_CHARS, description="How to speak, in words, for models that take that."
    )

    @property
    def voice_name(self) -> str:
        """Name of the voice; empty if the request leaves it open."""
        return (self.voice.id if isinstance(self.voice, VoiceReference) else self.voice) or ""

    @property
    def options(self) -> dict[str, Any]:
        """Options of the engine: every field that is none of ours."""
        return self.model_extra or {}


class SpeechRequest(SpeechOptions):
    """Body of `POST /v1/audio/speech`."""

    input: Text = Field(description="The text to speak.")
    stream: bool | None = Field(None, description="False for the whole file at once; streamed otherwise.")
    stream_format: Literal["audio", "sse"] | None = Field(
        None, description="`audio`: the body is the audio itself; `sse`: it comes in server-sent events."
    )
    verbose: bool | None = Field(
        None, description="True for events that tell more: where the text is in the audio, and what making it cost."
    )


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
    request = validated(SpeechRequest, data)
    if not request.input.strip():
        raise ApiError("INVALID_REQUEST", "`input` is empty; it must hold some text to speak", param="input")
    if len(request.input) > max_input_chars:
        raise ApiError(
            "INVALID_REQUEST",
            f"`input` has {len(request.input)} characters; at most {max_input_chars} are accepted",
            param="input",
        )
    if request.stream is False and request.stream_format == "sse":
        raise ApiError(
            "INVALID_REQUEST", "`stream` is false, and `stream_format` is 'sse', which is a stream", param="stream"
        )
    if request.verbose and request.stream_format != "sse":
        given = _shown(request.stream_format)
        raise ApiError(
            "INVALID_REQUEST",
            f'`verbose` is true, and `stream_format` is {given}; only with "sse" are there events that can tell more',
            param="verbose",
        )
    return request


S = TypeVar("S", bound=SpeechOptions)


def validated(cls: type[S], data: dict[str, Any]) -> S:
    """Check the fields of a request or message.

    Args:
        cls: What it is to be.
        data: Its JSON.

    Raises:
        ApiError: A field is wrong; the message names it, the value and what is accepted.
    """
    for name in data.keys() - cls.model_fields.keys():
        _check_option(name, data[name])
    try:
        request = cls.model_validate(data)
    except ValidationError as error:
        raise _from_validation(error) from error
    if request.format and request.response_format:
        raise ApiError(
            "INVALID_REQUEST",
            f"`format` is {request.format!r} and `response_format` is {request.response_format!r}; give one of them",
            param="format",
        )
    return request


class VoiceForm(BaseModel):
    """Text fields of the form `POST /v1/audio/voices`; the file `audio_sample` stands beside them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    # First, so that who sends another type hears of that before all else.
    type: Literal["audio_sample"] = Field("audio_sample", description="What the voice is made from.")
    name: Filled = Field(min_length=1, max_length=128, description="For people to read.", examples=["Maria"])
    consent: Filled = Field(
        min_length=1,
        max_length=4096,
        description="The statement by which the speaker agreed.",
        examples=["I, Maria, agree that this recording of my voice is imitated."],
    )
    transcript: Text = Field("", max_length=2048, description="What is said in the recording; some models need that.")
    language: str = Field(
        "",
        max_length=35,
        pattern=f"^$|{LANGUAGE_TAG}",
        description="Language of the speaker, as a BCP 47 tag such as `pt-BR`.",
    )
    gender: Literal["", "female", "male"] = Field("", description="Gender of the voice.")


def parse_voice(fields: Sequence[tuple[str, str]]) -> VoiceForm:
    """Read the text fields of a custom voice.

    Args:
        fields: Names and values, as received.

    Raises:
        ApiError: A field is wrong; the message names it, the value and what is accepted.
    """
    given = dict(fields)
    names = [name for name, _ in fields]
    if twice := [name for name in given if names.count(name) > 1]:
        raise ApiError("INVALID_REQUEST", f"{_shown(twice[0])} is given more than once", param=twice[0][:80])
    # Of another type the type itself is the mistake, and not its fields.
    unknown = [name for name in given if name not in VoiceForm.model_fields]
    if unknown and given.get("type", "audio_sample") == "audio_sample":
        known = ", ".join((*VoiceForm.model_fields, "audio_sample"))
        raise ApiError(
            "INVALID_REQUEST",
            f"{_shown(unknown[0])} is not a field of a custom voice; there are {known}",
            param=unknown[0][:80],
        )
    try:
        return VoiceForm.model_validate(given)
    except ValidationError as error:
        raise _from_validation(error) from error


class Configure(SpeechOptions):
    """How the turns of a live session are spoken from now on."""

    type: Literal["session.configure"] = "session.configure"
    split: Literal["sentence", "clause"] = Field("sentence", description="Where text is cut for speaking.")
    audio: Literal["binary", "base64"] = Field(
        "binary", description="Audio as binary messages, or within JSON messages."
    )


class Append(BaseModel):
    """More text of the turn; the first of it begins one."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["text.append"]
    text: Text


class Order(BaseModel):
    """A message of a live session that says all by its type."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["text.flush", "speech.cancel", "session.close"]


_MESSAGES: dict[str, type[Configure | Append | Order]] = {
    "session.configure": Configure,
    "text.append": Append,
    **dict.fromkeys(("text.flush", "speech.cancel", "session.close"), Order),
}


def parse_message(text: str) -> Configure | Append | Order:
    """Read a message of a live session.

    Args:
        text: As received.

    Raises:
        ApiError: It is no JSON, of no known type, or a field is wrong; the message says which, and what is accepted.
    """
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError("INVALID_REQUEST", f"a message must be a JSON object; {error}") from error
    if not isinstance(data, dict):
        raise ApiError("INVALID_REQUEST", f"a message must be a JSON object, not {_shown(data)}")
    kind = data.get("type")
    cls = _MESSAGES.get(kind) if isinstance(kind, str) else None
    if not cls:
        what = f"`type` is {_shown(kind)}" if "type" in data else "`type` is missing"
        raise ApiError("INVALID_REQUEST", f"{what}; it must be one of {', '.join(_MESSAGES)}", param="type")
    if cls is Configure:
        for name in SpeechRequest.model_fields.keys() - Configure.model_fields.keys() & data.keys():
            raise ApiError("INVALID_REQUEST", f"`{name}` is no field of a session; {_fields_of(Configure)}", param=name)
        return validated(Configure, data)
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise _from_validation(error) from error


def _check_option(name: str, value: object) -> None:
    """Refuse what no message to a worker can hold."""
    if len(name) > MAX_OPTION_NAME_CHARS:
        raise ApiError(
            "INVALID_REQUEST", f"{_shown(name)} is neither a field nor an option of a model", param=name[:80]
        )
    pending = [(value, 1)]
    while pending:
        each, depth = pending.pop()
        if depth > MAX_OPTIONS_DEPTH:
            raise ApiError("INVALID_REQUEST", f"the option {_shown(name)} is nested too deeply", param=name[:80])
        if isinstance(each, dict):
            pending += [(part, depth + 1) for part in (*each.keys(), *each.values())]
        elif isinstance(each, list):
            pending += [(part, depth + 1) for part in each]
        elif isinstance(each, int) and abs(each) > MOST_EXACT:
            raise ApiError("INVALID_REQUEST", f"the option {_shown(name)} has a number beyond 2^53", param=name[:80])
        elif isinstance(each, float) and math.isinf(each):  # JSON has none, but 1e400 is read as one.
            raise ApiError("INVALID_REQUEST", f"the option {_shown(name)} has a number beyond 1.8e308", param=name[:80])
    try:
        json.dumps([name, value], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ApiError(
            "INVALID_REQUEST", f"the option {_shown(name)} has half a surrogate pair", param=name[:80]
        ) from error


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
        if "too_long" in wrong["type"]:
            rule = f"at most {wrong['ctx']['max_length']} characters are accepted"
        elif wrong["type"] == "extra_forbidden":
            rule = "there is no such field here"
        elif "too_short" in wrong["type"]:
            rule = "it must not be empty"
        elif "pattern" in wrong["type"]:
            rule = "it must be a BCP 47 tag such as `pt-BR`"
        message = f"`{param}` is {_shown(wrong['input'])}: {rule}"
    return ApiError("INVALID_REQUEST", message, param=param)


def _fields_of(cls: type[BaseModel]) -> str:
    return f"it has {', '.join(cls.model_fields)}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def model_object(name: str, created: int, **more: object) -> dict[str, Any]:
    """Write a model as OpenAI's model object."""
    return {"id": name, "object": "model", "created": created, "owned_by": name.split("/")[0], **more}
