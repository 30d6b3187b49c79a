"""Which voices there are, and custom voices: made from a recording, listed, told of and deleted."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.endpoints import HTTPEndpoint
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.audio.decode import decode
from gateway.errors import ApiError
from gateway.requests import body_of, drain, same_origin, until_gone
from gateway.schema import VoiceForm, parse_voice
from gateway.voices import CustomVoice

MAX_SAMPLE_BYTES = 10 * 1024 * 1024
MAX_FIELD_BYTES = 64 * 1024
MAX_FIELDS = 16
MAX_FORM_BYTES = MAX_SAMPLE_BYTES + 256 * 1024
"""Room for the recording, and for the other fields at their longest."""


class Voices(HTTPEndpoint):
    """`/v1/audio/voices`."""

    async def get(self, request: Request) -> Response:
        """`GET /v1/audio/voices[?model=]`: voices of one model, or of all; then those of the caller's that it takes."""
        state = request.app.state
        model = request.query_params.get("model")
        if model == "":
            raise ApiError("MODEL_NOT_FOUND", "`model` is empty; name a model, or leave it out for all", param="model")
        voices = state.catalogue.voices(model)
        for voice in await asyncio.to_thread(state.voices.all_of, _owner(request)) if _may_own(request) else ():
            if not model or state.catalogue.can_imitate(model, has_transcript=bool(voice.transcript)):
                voices.append(
                    {
                        "id": voice.id,
                        "name": voice.name,
                        "language": voice.language or None,
                        "gender": voice.gender or None,
                        "model": None,
                        "custom": True,
                    }
                )
        return JSONResponse({"voices": voices})

    async def post(self, request: Request) -> Response:
        """`POST /v1/audio/voices`: keep a recording for models to imitate, if the speaker has agreed."""
        same_origin(request)
        form, sample = await _form(request)
        recording = await until_gone(request, asyncio.to_thread(decode, sample, "audio_sample"))
        voice = await asyncio.to_thread(
            request.app.state.voices.add,
            _owner(request),
            **form.model_dump(exclude={"type"}),
            pcm=recording.pcm,
            sample_rate_hz=recording.sample_rate_hz,
        )
        request.state.log.update(voice=voice.id, audio_s=voice.duration_s)
        return JSONResponse(_described(voice))


class OneVoice(HTTPEndpoint):
    """`/v1/audio/voices/{voice}`, for custom voices alone."""

    async def get(self, request: Request) -> Response:
        """`GET /v1/audio/voices/{voice}`: what is known of it."""
        name = request.path_params["voice"]
        voice = await asyncio.to_thread(request.app.state.voices.get, _owner(request), name)
        if not voice:
            raise _unknown(name)
        return JSONResponse(_described(voice))

    async def delete(self, request: Request) -> Response:
        """`DELETE /v1/audio/voices/{voice}`: forget it. What is being spoken with it is spoken to its end."""
        same_origin(request)
        name = request.path_params["voice"]
        if not await asyncio.to_thread(request.app.state.voices.delete, _owner(request), name):
            raise _unknown(name)
        request.state.log["voice"] = name
        return JSONResponse({"id": name, "object": "audio.voice.deleted", "deleted": True})


def _owner(request: Request) -> str:
    return str(request.state.key.name)


def _may_own(request: Request) -> bool:
    """Whether the caller is somebody: where there are keys, the list is public but nobody's voices are."""
    return bool(_owner(request) or not request.app.state.settings.api_keys_file)


def _unknown(name: str) -> ApiError:
    shown = repr(name[:60]) + ("..." if len(name) > 60 else "")
    return ApiError("VOICE_NOT_FOUND", f"you have no custom voice {shown}", param="voice")


def _described(voice: CustomVoice) -> dict[str, Any]:
    """Write it as OpenAI's voice object, with what we know beside that."""
    facts = {name: value if value != "" else None for name, value in asdict(voice).items()}
    return {"id": voice.id, "object": "audio.voice", "type": "audio_sample", **facts}


async def _form(request: Request) -> tuple[VoiceForm, bytes]:
    """Read the form.

    Returns:
        Its text fields and the file.

    Raises:
        ApiError: It is no form, too large, or a field is wrong.
    """
    declared = request.headers.get("content-type", "").split(";")[0].strip().lower()
    refusal = ApiError(
        "BODY_TOO_LARGE",
        f"the body has over {MAX_FORM_BYTES} bytes; `audio_sample` may have {MAX_SAMPLE_BYTES}",
        param="audio_sample",
    )
    body = body_of(request, MAX_FORM_BYTES, refusal)
    if declared != "multipart/form-data":
        await drain(body)
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"the content type is {declared!r}; send 'multipart/form-data'")
    try:
        parser = MultiPartParser(
            request.headers, body, max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
        form = await parser.parse()
    except MultiPartException as error:
        await drain(body)
        raise ApiError("INVALID_REQUEST", f"the body must be a form with one file: {error.message}") from error
    try:
        return _fields(form), await _file(form)
    finally:
        await form.close()


def _fields(form: FormData) -> VoiceForm:
    fields = []
    for name, value in form.multi_items():
        is_file = isinstance(value, UploadFile)
        if is_file != (name == "audio_sample"):
            what = "a file, with a file name" if name == "audio_sample" else "text, and no file"
            raise ApiError("INVALID_REQUEST", f"`{name[:80]}` must be {what}", param=name[:80])
        if isinstance(value, str):
            fields.append((name, value))
    return parse_voice(fields)


async def _file(form: FormData) -> bytes:
    sample = form.get("audio_sample")
    if not isinstance(sample, UploadFile):
        raise ApiError(
            "INVALID_REQUEST", "`audio_sample` is missing; it must be a recording of 1 to 30 s", param="audio_sample"
        )
    if (sample.size or 0) > MAX_SAMPLE_BYTES:
        raise ApiError(
            "BODY_TOO_LARGE",
            f"`audio_sample` has {sample.size} bytes; at most {MAX_SAMPLE_BYTES} are accepted",
            param="audio_sample",
        )
    return await sample.read()
