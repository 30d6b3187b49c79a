"""`POST /api/encode`: a recording in, the same as a whole file of another format out.

What somebody has heard of a stream, or of its part before they stopped it, they can so keep as it was: to ask for the
speech again would cost as much again, and sound another way wherever chance has a part in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.audio.transcode import Transcoder
from gateway.errors import ApiError
from gateway.requests import body_of, drain
from gateway.schema import FORMATS

MOST_BYTES = 256 * 1024 * 1024
"""Longest recording: an hour and a half at 24 kHz."""

MEDIA_TYPES = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave")

PIECE_BYTES = 64 * 1024

T = TypeVar("T")

# Two at once, piece by piece in turn: the cores are for speech, which somebody waits for.
_threads = ThreadPoolExecutor(2, "encode")


async def encode(request: Request) -> Response:
    """`POST /api/encode?format=`: a WAV file of 16-bit mono PCM as a file of that format."""
    refusal = ApiError("BODY_TOO_LARGE", f"the body has over {MOST_BYTES} bytes, the most that is accepted")
    body = body_of(request, MOST_BYTES, refusal)
    try:
        form = _format(request)
        _check_type(request)
        transcoder = Transcoder(form, request.app.state.settings.kbps)
        async for piece in body:
            await _in_thread(transcoder.feed, piece)
        encoder = await _in_thread(transcoder.finish)
    except ApiError:
        await drain(body)
        raise
    request.state.log.update(format=form, audio_s=round(transcoder.audio_s, 3))
    headers = {
        "cache-control": "no-store",
        "content-length": str(transcoder.size),
        "x-sonorant-sample-rate": str(encoder.sample_rate_hz),
    }
    return StreamingResponse(_pieces(transcoder.file), media_type=encoder.media_type, headers=headers)


async def _in_thread(work: Callable[..., T], *arguments: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(_threads, work, *arguments)


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while piece := await _in_thread(file.read, PIECE_BYTES):
            yield piece


def _format(request: Request) -> str:
    form = request.query_params.get("format")
    if form not in FORMATS:
        shown = "missing" if form is None else repr(form[:40])
        raise ApiError(
            "INVALID_REQUEST", f"`format` is {shown}; it must be one of {', '.join(FORMATS)}", param="format"
        )
    return form


def _check_type(request: Request) -> None:
    declared = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if declared not in MEDIA_TYPES:
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"the content type is {declared!r}; send 'audio/wav'")
