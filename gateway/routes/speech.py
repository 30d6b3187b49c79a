"""`POST /v1/audio/speech`: text in, audio out, streamed as it is made.

The path of a chunk: worker → `fleet.link.Speech` → encoder → `SpeechResponse` → client. Nothing is sent before the
first audio is here, so until then every failure is an ordinary HTTP error; after it, a failure ends the body without
its terminator, so that no broken stream looks like a good one. Where a body cannot be broken off (HTTP/1.0 has no
terminator, and Hypercorn's HTTP/2 resets no stream) the whole is gathered first, as for `"stream": false`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from urllib.parse import quote

from google.protobuf.duration_pb2 import Duration
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.audio.encode import ENCODERS, Encoder
from gateway.catalogue import OPENAI_VOICES, Catalogue
from gateway.errors import ApiError, ClientGone
from gateway.fleet.link import Fleet, Speech
from gateway.requests import until_gone
from gateway.schema import SpeechRequest, parse_speech
from gateway.settings import Settings
from protos.tts.v1 import speech_pb2

DRAIN_BYTES = 64 * 1024 * 1024
"""How much of a body that is too large is read and thrown away, so that the client gets to read the answer."""


async def speech(request: Request) -> Response:
    """Speak."""
    settings: Settings = request.app.state.settings
    fleet: Fleet = request.app.state.fleet
    catalogue: Catalogue = request.app.state.catalogue
    asked = parse_speech(await _body(request, settings.max_body_bytes), settings.max_input_chars)
    if request.app.state.draining:
        raise ApiError("DRAINING", "the server is shutting down", retry_after_s=1.0)
    model = catalogue.model_name(asked.model)
    form = asked.response_format or asked.format or settings.default_format
    request.state.log.update(model=model, voice=asked.voice_name, format=form, chars=len(asked.input))

    spoken = fleet.speech(_to_proto(asked, model, request.state.request_id, settings))
    try:
        await until_gone(request, spoken.open())
        header = spoken.header
        headers = {
            "cache-control": "no-store",
            "x-accel-buffering": "no",  # nginx would hold a stream back.
            "x-sonorant-model": quote(header.model),
            "x-sonorant-voice": quote(header.voice),
            "x-sonorant-worker": header.worker_id,
        }
        if asked.instructions:
            headers["x-sonorant-ignored"] = "instructions"
        request.state.log.update(voice=header.voice, worker=header.worker_id)
        if asked.stream is False or request.scope["http_version"] != "1.1":
            return await _whole(request, spoken, form, headers)
        encoder = ENCODERS[form](header.format.sample_rate_hz)
        return SpeechResponse(request, spoken, _encoded(spoken, encoder), encoder, headers)
    except ApiError as error:
        spoken.cancel()
        if error.reason == "VOICE_NOT_FOUND":
            error.message += f"; OpenAI's names work too: {', '.join(OPENAI_VOICES)}"
        raise
    except BaseException:
        spoken.cancel()
        raise


class SpeechResponse(Response):
    """Sends speech, and ends the worker's part of it however the response ends, also if it never begins.

    Args:
        request: Whose answer this is.
        spoken: An open utterance.
        audio: The body, in pieces as they come.
        encoder: What makes it.
        headers: More headers.
    """

    def __init__(
        self, request: Request, spoken: Speech, audio: AsyncIterator[bytes], encoder: Encoder, headers: dict[str, str]
    ) -> None:
        self._request = request
        self._spoken = spoken
        self._audio = audio
        self._all_sent = False
        self.status_code = 200
        self.media_type = encoder.media_type
        self.background = None
        self.init_headers({**headers, "x-sonorant-sample-rate": str(encoder.sample_rate_hz)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = self._request.state.log
        try:
            await until_gone(self._request, self._send_all(send))
            fields["outcome"] = "ok"
        except ClientGone:
            # Hypercorn also says "gone" when the last byte has been handed over.
            fields["outcome"] = "ok" if self._all_sent else "client_gone"
        except ApiError as error:
            # No more than this return: the server closes the connection without the last chunk.
            fields.update(outcome="cut", reason=error.reason, error=error.message)
        finally:
            self._spoken.cancel()
            fields.update(_figures(self._spoken))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for audio in self._audio:
            if audio:
                await send({"type": "http.response.body", "body": audio, "more_body": True})
                _note_first_audio(self._request)
        self._all_sent = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _encoded(spoken: Speech, encoder: Encoder) -> AsyncIterator[bytes]:
    async for pcm in spoken:
        yield encoder.feed(pcm)
    yield encoder.flush()


async def _whole(request: Request, spoken: Speech, form: str, headers: dict[str, str]) -> Response:
    """Gather the whole file, then answer with its length and real sizes."""

    async def gather() -> list[bytes]:
        return [pcm async for pcm in spoken]

    try:
        chunks = await until_gone(request, gather())
    finally:
        spoken.cancel()
        request.state.log.update(_figures(spoken))
    encoder = ENCODERS[form](spoken.header.format.sample_rate_hz, spoken.num_samples)
    # Kept in pieces: a long text is hundreds of megabytes, which need not be copied once more.
    pieces = [*map(encoder.feed, chunks), encoder.flush()]
    if spoken.was_cut:
        headers["x-sonorant-finish"] = "length"
    headers["content-length"] = str(sum(map(len, pieces)))

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return SpeechResponse(request, spoken, body(), encoder, headers)


def _note_first_audio(request: Request) -> None:
    request.state.log.setdefault("ttfa_ms", round(1000 * (time.monotonic() - request.state.started), 1))


def _figures(spoken: Speech) -> dict[str, object]:
    """What the log says of an utterance: seconds of audio, compute time by audio time, and moves if there were any."""
    audio_s = spoken.num_samples / spoken.header.format.sample_rate_hz
    figures: dict[str, object] = {"audio_s": round(audio_s, 3)}
    if spoken.summary and audio_s:
        figures["rtf"] = round(spoken.summary.synthesis_time.ToTimedelta().total_seconds() / audio_s, 4)
    if spoken.was_cut:
        figures["ran_away"] = True
    if spoken.moves:
        figures["moves"] = spoken.moves
    return figures


def _to_proto(asked: SpeechRequest, model: str, request_id: str, settings: Settings) -> speech_pb2.SynthesizeRequest:
    timeout = Duration()
    timeout.FromMilliseconds(round(1000 * settings.first_audio_timeout_s))
    return speech_pb2.SynthesizeRequest(
        request_id=request_id,
        model=model,
        voice=asked.voice_name,
        voice_place=Catalogue.voice_place(asked.voice_name),
        input=asked.input,
        speed=asked.speed,
        seed=asked.seed,
        first_audio_timeout=timeout,
    )


async def _body(request: Request, limit: int) -> bytes:
    """Read the body.

    Raises:
        ApiError: It is not declared to be JSON, or too large.
    """
    declared = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if declared != "application/json" and not declared.endswith("+json"):
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"the content type is {declared!r}; send JSON, as 'application/json'")
    body = bytearray()
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total <= limit:
            body += chunk
        elif total > DRAIN_BYTES:
            break
    if total > limit:
        raise ApiError("BODY_TOO_LARGE", f"the body has over {limit} bytes, the most that is accepted")
    return bytes(body)
