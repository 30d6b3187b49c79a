"""The OpenAPI 3.1 document of this server: made from the models that validate and from the table of errors.

It describes the server that serves it: its formats and limits, whether it asks for keys, and the options of the models
that its workers have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from gateway.audio.encode import MEDIA_TYPES, rates_of
from gateway.catalogue import STATES
from gateway.errors import TABLE, ApiError
from gateway.schema import FORMATS, MAX_ID_CHARS, SpeechRequest, VoiceForm
from gateway.settings import Settings

Schema = dict[str, Any]

WHEN: dict[str, str] = {
    "INVALID_REQUEST": "A field is missing, of the wrong form or out of range; `param` names it.",
    "UNSPEAKABLE_TEXT": "The voice has no way to say the text, or some characters of it.",
    "UNSUPPORTED_OPTION": "The model does not take the option, or not that value of it.",
    "MODEL_NOT_FOUND": "Neither a worker nor the hub has the model.",
    "UNSUPPORTED_MODEL": "The hub has the model, but no engine here serves it.",
    "MODEL_FORBIDDEN": "The operator has excluded the model, or the hub wants a token that has access to it.",
    "VOICE_NOT_FOUND": "The model has no such voice.",
    "MODEL_STATE": "The model is in use and cannot be unloaded.",
    "MODEL_LOADING": "The model is still being downloaded or loaded; the message says how far it is.",
    "HUB_UNAVAILABLE": "The hub cannot be reached, and the model is not on disk.",
    "DISK_FULL": "The model's files do not fit on the worker's disk, or a custom voice on that of the gateway.",
    "OUT_OF_MEMORY": "The model does not fit into the worker's memory.",
    "OVERLOADED": "The worker has as many utterances as it takes.",
    "DRAINING": "The server, or the worker, is shutting down.",
    "FIRST_AUDIO_TIMEOUT": "No audio came in time.",
    "ENGINE_FAILURE": "The engine failed before the first audio.",
    "LOAD_FAILURE": "The engine could not load the model.",
    "NO_WORKER": "No worker can be reached.",
    "WRONG_TOKEN": "The worker asks for another token than the gateway's.",
    "UNAUTHENTICATED": "The API key is missing or wrong.",
    "RATE_LIMITED": "The key has made as many requests, or has as many streams open, as it may.",
    "CHARACTERS_LIMITED": "The key has asked for as much text as it may.",
    "VOICE_LIMIT": "There are as many custom voices as are kept for one key.",
    "STORAGE_FAILURE": "The folder of custom voices cannot be written.",
    "FOREIGN_ORIGIN": "A page of another origin may not do that.",
    "NOT_FOUND": "There is nothing at this path, or by this name.",
    "UPGRADE_REQUIRED": "The path is for WebSockets.",
    "METHOD_NOT_ALLOWED": "The path has no such method; `Allow` lists those that it has.",
    "BODY_TOO_LARGE": "The body is larger than what is accepted.",
    "UNSUPPORTED_MEDIA_TYPE": "The body is not of the content type that the path takes.",
    "BUG": "The server made a mistake.",
}
"""When a client meets each error."""

SPEAKING = (
    *("UNSPEAKABLE_TEXT", "UNSUPPORTED_OPTION", "MODEL_NOT_FOUND", "UNSUPPORTED_MODEL", "MODEL_FORBIDDEN"),
    *("VOICE_NOT_FOUND", "MODEL_LOADING", "HUB_UNAVAILABLE", "DISK_FULL", "OUT_OF_MEMORY", "OVERLOADED", "DRAINING"),
    *("FIRST_AUDIO_TIMEOUT", "ENGINE_FAILURE", "LOAD_FAILURE", "NO_WORKER", "WRONG_TOKEN"),
)
"""What can go wrong between the request and its first audio."""

RATE_HEADERS = {
    f"x-ratelimit-{what}-{of}": {"schema": {"type": "string"}, "description": text}
    for of, meant in (("requests", "requests a minute"), ("tokens", "tokens, which are characters of text, a minute"))
    for what, text in (
        ("limit", f"Most {meant}, where the key is limited."),
        ("remaining", f"What is left of the {meant}."),
        ("reset", f"Until all {meant} are there again, such as `1.5s` or `6m0s`."),
    )
}


def document(settings: Settings, version: str, options: Mapping[str, Schema]) -> Schema:
    """Write the document.

    Args:
        settings: Of this gateway.
        version: Of the software.
        options: JSON Schemas of what the models of the workers take beside the fields of a request, by name.
    """
    doc: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "Sonorant",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Text to speech with OpenAI's API, streamed as it is made. Text can be streamed in, too, "
            "over the WebSocket `/v1/audio/speech/stream`, which OpenAPI has no words for: see `docs/live.md`.",
        },
        "tags": [{"name": name} for name in ("speech", "voices", "models", "workers", "health")],
        "paths": _paths(settings, options),
        "components": {
            "schemas": {
                "Error": ERROR,
                "Voice": VOICE,
                "CustomVoice": CUSTOM_VOICE,
                "Model": MODEL,
                "Listed": LISTED,
                "Worker": WORKER,
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
        },
    }
    for path in doc["paths"].values():
        for operation in path.values():
            is_open = operation["tags"] == ["health"] or (
                settings.public_discovery and operation.pop("discovers", False)
            )
            operation.pop("discovers", None)
            if settings.api_keys_file and not is_open:
                operation["security"] = [{"key": []}]
                operation["responses"] |= _errors(["UNAUTHENTICATED"])
    return doc


def _paths(settings: Settings, options: Mapping[str, Schema]) -> Schema:
    return {
        "/v1/audio/speech": {
            "post": _operation(
                "speech",
                "speak",
                "Speak",
                "Streams the audio as it is made, in any format, over HTTP/1.1. A stream that ends without the last "
                "chunk of its transfer encoding has failed.",
                answer={
                    "description": "The audio.",
                    "headers": _SPEECH_HEADERS | RATE_HEADERS,
                    "content": {
                        **{media_type: {"schema": BINARY} for media_type in MEDIA_TYPES.values()},
                        "text/event-stream": {
                            "schema": _event(SPEECH_EVENT),
                            "examples": {
                                "delta": {
                                    "value": {"data": '{"type": "speech.audio.delta", "audio": "UklGRv////9XQVZF"}'}
                                },
                                "done": {
                                    "value": {
                                        "data": '{"type": "speech.audio.done", "usage": {"input_tokens": 15, '
                                        '"output_tokens": 22, "total_tokens": 37}}'
                                    }
                                },
                            },
                        },
                    },
                },
                body={"application/json": {"schema": speech_schema(settings, options), "examples": SPEECH_EXAMPLES}},
                reasons=(*SPEAKING, "RATE_LIMITED", "CHARACTERS_LIMITED", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE"),
            )
        },
        "/v1/audio/voices": {
            "get": _operation(
                "voices",
                "listVoices",
                "List voices",
                "The voices of one model, or of all that have been loaded once, and the caller's own.",
                answer=_json(_object(voices={"type": "array", "items": _ref("Voice")})),
                parameters=[_query("model", _MAYBE_MODEL, "Id of a model.")],
                reasons=("MODEL_NOT_FOUND", "NO_WORKER"),
                discovers=True,
            ),
            "post": _operation(
                "voices",
                "createVoice",
                "Make a custom voice",
                "Keeps a recording that models with `cloning` imitate. Only the key that made a voice can use it.",
                answer=_json(_ref("CustomVoice"))
                | {
                    "links": {
                        name: {"operationId": name, "parameters": {"voice": "$response.body#/id"}}
                        for name in ("getVoice", "deleteVoice")
                    }
                },
                body={"multipart/form-data": {"schema": voice_schema()}},
                reasons=(
                    *("VOICE_LIMIT", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "FOREIGN_ORIGIN"),
                    *("DISK_FULL", "STORAGE_FAILURE"),
                ),
            ),
        },
        "/v1/audio/voices/{voice}": {
            "get": _operation(
                "voices",
                "getVoice",
                "Get a custom voice",
                "",
                answer=_json(_ref("CustomVoice")),
                parameters=[_path("voice", _ID, "Id of a custom voice.")],
                reasons=("VOICE_NOT_FOUND",),
            ),
            "delete": _operation(
                "voices",
                "deleteVoice",
                "Delete a custom voice",
                "",
                answer=_json(_object(id=_STRING, object=_const("audio.voice.deleted"), deleted={"type": "boolean"})),
                parameters=[_path("voice", _ID, "Id of a custom voice.")],
                reasons=("VOICE_NOT_FOUND", "FOREIGN_ORIGIN", "STORAGE_FAILURE"),
            ),
        },
        "/v1/audio/models": {
            "get": _operation(
                "models",
                "listAudioModels",
                "List models by name",
                "The list that consoles ask for.",
                answer=_json(_object(models={"type": "array", "items": _object(id=_STRING, name=_STRING)})),
                discovers=True,
            )
        },
        "/v1/models": {
            "get": _operation(
                "models",
                "listModels",
                "List models",
                "The workers' models, and the names that stand for them.",
                answer=_json(_object(object=_const("list"), data={"type": "array", "items": _ref("Model")})),
                discovers=True,
            )
        },
        "/v1/models/{model}": {
            "get": _operation(
                "models",
                "getModel",
                "Get a model",
                "The id may hold a slash, escaped or not.",
                answer=_json(_ref("Model")),
                parameters=[_path("model", _MODEL, "Id of a model.")],
                reasons=("INVALID_REQUEST", "MODEL_NOT_FOUND", "NO_WORKER"),
                discovers=True,
            )
        },
        "/api/models": {
            "get": _operation(
                "models",
                "catalogue",
                "List the hub's models",
                "The hub's trending models with all that is known of each.",
                answer=_json(
                    _object(
                        count={"type": "integer"},
                        models={"type": "array", "items": _ref("Listed")},
                        local={"type": "array", "items": _ref("Listed")},
                        stale={"type": "boolean"},
                    )
                ),
                parameters=[
                    _query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}, "Most models."),
                    _query("search", {"type": "string", "maxLength": 100}, "Part of the ids."),
                ],
                reasons=("INVALID_REQUEST",),
                discovers=True,
            )
        },
        "/api/models/{model}/load": {
            "post": _operation(
                "models",
                "loadModel",
                "Load a model",
                "Brings a model into the memory of a worker; hanging up does not undo that.",
                answer={
                    "description": "Progress, as server-sent events.",
                    "content": {"text/event-stream": {"schema": _event(LOAD_EVENT)}},
                },
                parameters=[_path("model", _MODEL, "Id of a model."), _WORKER],
                reasons=("INVALID_REQUEST", *SPEAKING, "NOT_FOUND", "FOREIGN_ORIGIN"),
            )
        },
        "/api/models/{model}/unload": {
            "post": _operation(
                "models",
                "unloadModel",
                "Unload a model",
                "Takes a model out of the memory of a worker, or of all that have it.",
                answer=_json(_object(id=_STRING, workers={"type": "array", "items": _STRING})),
                parameters=[_path("model", _MODEL, "Id of a model."), _WORKER],
                reasons=(
                    "INVALID_REQUEST",
                    "MODEL_NOT_FOUND",
                    "MODEL_STATE",
                    "NO_WORKER",
                    "NOT_FOUND",
                    "FOREIGN_ORIGIN",
                ),
            )
        },
        "/api/encode": {
            "post": _operation(
                "speech",
                "encode",
                "Encode a recording",
                "Makes a whole file of what was heard of a stream, or of its part. A file that was broken off ends "
                "where it was.",
                answer={
                    "description": "The file.",
                    "headers": {"x-sonorant-sample-rate": _SPEECH_HEADERS["x-sonorant-sample-rate"]},
                    "content": {media_type: {"schema": BINARY} for media_type in MEDIA_TYPES.values()},
                },
                body={"audio/wav": {"schema": {**BINARY, "description": "A WAV file of 16-bit mono PCM."}}},
                parameters=[
                    {**_query("format", {"type": "string", "enum": list(FORMATS)}, "Its format."), "required": True}
                ],
                reasons=("BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "STORAGE_FAILURE"),
            )
        },
        "/api/workers": {
            "get": _operation(
                "workers",
                "listWorkers",
                "List workers",
                "The workers as they stand, each with its models.",
                answer=_json(
                    _object(
                        workers={
                            "type": "array",
                            "items": {"allOf": [_ref("Worker"), _object(models={"type": "array", "items": STANDING})]},
                        },
                        default_model=_STRING,
                    )
                ),
                discovers=True,
            )
        },
        "/healthz": {
            "get": _operation(
                "health",
                "health",
                "Whether the gateway lives",
                "With each worker as it stands.",
                answer=_json(_object(status=_const("ok"), workers={"type": "array", "items": _ref("Worker")})),
            )
        },
        "/readyz": {
            "get": _operation(
                "health",
                "ready",
                "Whether it can speak",
                "",
                answer=_json(_object(status=_const("ready"), model=_STRING)),
                reasons=("DRAINING", "NO_WORKER"),
            )
        },
        "/metrics": {
            "get": _operation(
                "health",
                "metrics",
                "Figures for Prometheus",
                "In its text format.",
                answer={"description": "As asked.", "content": {"text/plain": {"schema": _STRING}}},
            )
        },
    }


def speech_schema(settings: Settings, options: Mapping[str, Schema]) -> Schema:
    """Describe the body of a request for speech."""
    schema = SpeechRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    properties = schema["properties"]
    properties["voice"]["anyOf"][1] = schema.pop("$defs")["VoiceReference"]
    properties["input"] |= {"pattern": r"^[^\x00]*[^\s\x00][^\x00]*$", "maxLength": settings.max_input_chars}
    properties["model"]["anyOf"][0] |= _MAYBE_MODEL
    properties["model"]["description"] += f" Left out: {settings.default_model}."
    properties["response_format"]["description"] += f" Left out: {settings.default_format}."
    for name, option in options.items():
        properties.setdefault(name, option)
    rates = {form: [*rates_of(form), None] for form in FORMATS}
    properties["sample_rate"]["enum"] = list(dict.fromkeys(rate for each in rates.values() for rate in each))
    # A model takes its own options alone; what none of those here knows is refused by all of them.
    schema["additionalProperties"] = False
    is_named = {field: {"properties": {field: _STRING}, "required": [field]} for field in ("format", "response_format")}
    schema["allOf"] = [
        {"if": is_named["format"], "then": {"properties": {"response_format": {"type": "null"}}}},
        {
            "if": {"properties": {"stream_format": {"const": "sse"}}, "required": ["stream_format"]},
            "then": {"properties": {"stream": {"enum": [True, None]}}},
        },
        {
            "if": {"properties": {"verbose": {"const": True}}, "required": ["verbose"]},
            "then": {"properties": {"stream_format": {"const": "sse"}}, "required": ["stream_format"]},
        },
        {
            "if": {"not": {"anyOf": list(is_named.values())}},
            "then": {"properties": {"sample_rate": {"enum": rates[settings.default_format]}}},
        },
        *(
            {
                "if": {"properties": {field: {"const": form}}, "required": [field]},
                "then": {"properties": {"sample_rate": {"enum": rates[form]}}},
            }
            for field in is_named
            for form in FORMATS
        ),
    ]
    return schema


def voice_schema() -> Schema:
    """Describe the form of a request for a custom voice."""
    schema = VoiceForm.model_json_schema()
    recording = "A recording of 1 to 30 s and at most 10 MiB, in a format that libsndfile reads, such as WAV or MP3."
    schema["properties"]["audio_sample"] = {**BINARY, "description": recording}
    schema["required"].append("audio_sample")
    return schema


def _operation(
    tag: str,
    name: str,
    title: str,
    text: str,
    *,
    answer: Schema,
    reasons: Iterable[str] = (),
    body: Schema | None = None,
    parameters: Iterable[Schema] = (),
    discovers: bool = False,
) -> Schema:
    operation: Schema = {"tags": [tag], "operationId": name, "summary": title, "discovers": discovers}
    if text:
        operation["description"] = text
    if parameters:
        operation["parameters"] = list(parameters)
    if body:
        operation["requestBody"] = {"required": True, "content": body}
        reasons = ("INVALID_REQUEST", *reasons)
    operation["responses"] = {"200": answer} | _errors([*reasons, "BUG"])
    return operation


def _errors(reasons: Iterable[str]) -> Schema:
    """Describe answers that are errors, by status, with an example of each."""
    responses: Schema = {}
    for reason in dict.fromkeys(reasons):
        form = TABLE[reason]
        example = ApiError(reason, WHEN[reason]).body()
        response = responses.setdefault(
            str(form.status),
            {
                "description": HTTPStatus(form.status).phrase,
                "content": {"application/json": {"schema": _ref("Error"), "examples": {}}},
            },
        )
        response["content"]["application/json"]["examples"][reason.lower()] = {
            "summary": WHEN[reason],
            "value": example,
        }
        if form.status in (429, 503):
            response["headers"] = {
                "retry-after": {
                    "schema": {"type": "integer", "minimum": 0},
                    "description": "When to come back, in seconds.",
                }
            }
        if form.status == 429:
            response["headers"] |= RATE_HEADERS
    return responses


def _json(schema: Schema) -> Schema:
    return {"description": "As asked.", "content": {"application/json": {"schema": schema}}}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _event(schema: Schema) -> Schema:
    """Describe one server-sent event whose data are JSON; the body is a stream of them."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    return {"type": "object", "properties": {"event": _STRING, "data": data}, "required": ["data"]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _const(value: str) -> Schema:
    return {"type": "string", "const": value}


def _query(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": text}


def _path(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": text}


_STRING: Schema = {"type": "string"}
_MAYBE: Schema = {"type": ["string", "null"]}
_ID: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS}
# The hub's rules for the ids of repositories.
_REPOSITORY = r"[A-Za-z0-9_]+([.-]?[A-Za-z0-9_]+)*(/[A-Za-z0-9_]+([.-]?[A-Za-z0-9_]+)*)?"
_MODEL: Schema = {"type": "string", "maxLength": 96, "pattern": f"^{_REPOSITORY}$"}
_MAYBE_MODEL: Schema = {"type": "string", "maxLength": 96, "pattern": f"^({_REPOSITORY})?$"}
_WORKER = _query("worker", {"type": "string"}, "Name of the only worker that will do.")

BINARY: Schema = {"type": "string", "format": "binary"}

_SPEECH_HEADERS: Schema = {
    "server-timing": {
        "schema": _STRING,
        "description": "`ttfa;dur=` and how long it took, in ms, until the first audio was here; of streams alone.",
    },
    "x-request-id": {"schema": _STRING, "description": "Found again in the log."},
    "x-sonorant-model": {"schema": _STRING, "description": "Who speaks, percent-encoded."},
    "x-sonorant-voice": {"schema": _STRING, "description": "With which voice, percent-encoded."},
    "x-sonorant-worker": {"schema": _STRING, "description": "Where."},
    "x-sonorant-sample-rate": {"schema": {"type": "integer"}, "description": "Rate of the audio, in Hz."},
    "x-sonorant-ignored": {"schema": _STRING, "description": "Fields of which the model takes no notice."},
    "x-sonorant-finish": {"schema": _STRING, "description": "`length` if the model ran away and was cut."},
}

ERROR = _object(error=_object(message=_STRING, type=_STRING, param=_MAYBE, code=_MAYBE))

FIGURES: Schema = {
    **_object(
        **{name: {"type": "number"} for name in ("ttfa_ms", "rtf", "queue_ms", "batch")},
        underruns={"type": "integer"},
        worker=_STRING,
    ),
    "description": "What the log says of it, if `verbose`: time until the first audio was sent, work for each second "
    "of audio, wait for the device, utterances in a run of the model, how often a listener at real time has run dry.",
}

SPEECH_EVENT: Schema = {
    "oneOf": [
        _object(type=_const("speech.audio.delta"), audio={**_STRING, "contentEncoding": "base64"}),
        {
            **_object(
                type=_const("speech.mark"),
                kind={"enum": ["segment", "word"]},
                **{name: {"type": "integer"} for name in ("text_start", "text_end", "start_ms")},
                end_ms={"type": ["integer", "null"]},
            ),
            "description": "If `verbose`: where a part of the text is in the audio, in code points and in ms as it is "
            "heard. It comes when the part begins, and again with its end.",
        },
        {
            "type": "object",
            "properties": {
                "type": _const("speech.audio.done"),
                "usage": _object(
                    **{key: {"type": "integer"} for key in ("input_tokens", "output_tokens", "total_tokens")}
                ),
                "audio_ms": {"type": "integer", "description": "Length of the audio, if `verbose`."},
                "figures": FIGURES,
            },
            "required": ["type", "usage"],
        },
        _object(type=_const("speech.audio.error"), **ERROR["properties"]),
    ]
}

LOAD_EVENT: Schema = {
    "anyOf": [
        _object(
            stage={"enum": ["downloading", "loading", "warming_up", "ready", "unknown"]},
            model=_STRING,
            worker=_STRING,
            downloaded_bytes={"type": "integer"},
            download_bytes={"type": "integer"},
        ),
        ERROR,
    ]
}

MODEL = _object(id=_STRING, object=_const("model"), created={"type": "integer"}, owned_by=_STRING)

VOICE = _object(id=_STRING, name=_STRING, language=_MAYBE, gender=_MAYBE, model=_MAYBE)

CUSTOM_VOICE = _object(
    id=_STRING, object=_const("audio.voice"), type=_const("audio_sample"), name=_STRING, created_at={"type": "integer"}
)

STANDING: Schema = {
    "type": "object",
    "properties": {
        "id": _STRING,
        "state": {"enum": [*STATES.values(), "unknown"]},
        "active": {"type": "integer", "description": "Utterances that it is speaking."},
        "calls": {"type": "integer", "description": "Calls of this gateway among them, or on their way there."},
        "memory_bytes": {"type": ["integer", "null"], "description": "What it holds; null if it is not in memory."},
        "downloaded_bytes": {"type": "integer"},
        "download_bytes": {"type": "integer"},
        "reason": {"type": "string", "description": "Why it has failed."},
    },
    "required": ["id", "state", "active", "memory_bytes"],
}

WORKER: Schema = {
    "type": "object",
    "properties": {
        "address": _STRING,
        "state": {"enum": ["up", "starting", "draining", "down"]},
        "id": _STRING,
        "device": _object(
            id=_STRING, name=_STRING, memory_total_bytes={"type": "integer"}, memory_free_bytes={"type": "integer"}
        ),
        "engines": {"type": "array", "items": _STRING},
        **{name: {"type": "integer"} for name in ("active", "queued", "capacity", "outstanding")},
        "expected_wait_s": {"type": "number", "description": "How long one more would wait, in seconds."},
        "suspect": {"type": "boolean", "description": "It has let a caller wait in vain, and comes last."},
        "memory_budget_bytes": {
            "type": ["integer", "null"],
            "description": "Most memory that models may hold; null if there is no bound.",
        },
        "boot_id": {"type": "string", "description": "Another one with every start of the worker."},
        "build": _STRING,
        "reason": {"type": "string", "description": "Why it cannot be reached."},
    },
    "required": ["address", "state", "id"],
    "description": "Of a worker that is down nothing more is known than its address, its name, and maybe why.",
}

LISTED = _object(
    id=_STRING,
    servable={"type": "boolean"},
    engine=_MAYBE,
    reason=_MAYBE,
    workers={"type": "object"},
    voices={"type": "array", "items": {"type": "object"}},
)

SPEECH_EXAMPLES: Schema = {
    "plain": {"value": {"model": "tts-1", "voice": "alloy", "input": "Good morning."}},
    "events": {"value": {"input": "Good morning.", "response_format": "mp3", "stream_format": "sse"}},
    "whole": {"value": {"input": "Good morning.", "response_format": "wav", "sample_rate": 16000, "stream": False}},
    "slow": {"value": {"input": "Good morning.", "speed": 0.8, "seed": 7}},
    "told": {"value": {"input": "Good morning.", "stream_format": "sse", "verbose": True}},
}
