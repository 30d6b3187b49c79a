"""`POST /v1/audio/speech`: text in, audio out, streamed as it is made.

The path of a chunk: worker → `fleet.speech.Speech` → encoder → `SpeechResponse` → client. Nothing is sent before the
first audio is here, so until then every failure is an ordinary HTTP error; after it, a failure ends the body without
its terminator, so that no broken stream looks like a good one. Where a body cannot be broken off (HTTP/1.0 has no
terminator, and Hypercorn's HTTP/2 resets no stream) the whole is gathered first, as for `"stream": false`.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import tracing
from gateway.audio.encode import Encoder
from gateway.errors import ApiError, ClientGone
from gateway.fleet.speech import Speech
from gateway.metrics import Figures
from gateway.plan import Plan
from gateway.requests import body_of, until_gone
from gateway.schema import SpeechRequest, parse_speech

SSE_RATE_HZ = 24_000
"""Rate of audio in events, which clients take for granted."""

EVENTS = "text/event-stream"


async def speech(request: Request) -> Response:
    """Speak."""
    state = request.app.state
    asked = parse_speech(await _body(request, state.settings.max_body_bytes), state.settings.max_input_chars)
    if state.draining:
        raise ApiError("DRAINING", "the server is shutting down", retry_after_s=1.0)
    plan = Plan(asked, request.state.key.name, state.catalogue, state.voices, state.settings)
    request.state.log.update(model=plan.model, voice=asked.voice_name, format=plan.format, chars=len(asked.input))
    is_live = asked.stream_format == "sse" or (asked.stream is not False and request.scope["http_version"] == "1.1")
    spoken = plan.speak(state.fleet, asked.input, request.state.request_id, is_live=is_live)
    admission = await state.quotas.admit(request.state.key, len(asked.input))

    def end() -> None:
        spoken.cancel()
        admission.release()
        fields = request.state.log
        fields.update(Figures().add(spoken).line())
        state.metrics.note_speech(plan.model, spoken)
        if "ttfa_ms" in fields:
            state.metrics.note_first_audio(plan.model, fields["ttfa_ms"], is_live=is_live)

    try:
        await until_gone(request, spoken.open())
        header = spoken.header
        headers = {
            "cache-control": "no-store",
            "x-accel-buffering": "no",  # nginx would hold a stream back.
            "x-sonorant-model": quote(header.model),
            "x-sonorant-voice": quote(header.voice),
            "x-sonorant-worker": header.worker_id,
            **admission.headers,
        }
        if header.ignored:
            headers["x-sonorant-ignored"] = ", ".join(header.ignored)
        if is_live:
            headers["server-timing"] = f"ttfa;dur={_ms_since(request)}"
        request.state.log.update(voice=header.voice, worker=header.worker_id)
        if asked.stream_format == "sse":
            encoder = plan.encoder(header, rate_hz=SSE_RATE_HZ)
            return SpeechResponse(
                request, _events(request, plan, asked, spoken, encoder), encoder, headers, end, EVENTS
            )
        if not is_live:
            return await _whole(request, plan, spoken, headers, end)
        encoder = plan.encoder(header)
        return SpeechResponse(request, _encoded(spoken, encoder), encoder, headers, end)
    except ApiError as error:
        end()
        error.headers.update(admission.headers)
        raise plan.explain(error) from None
    except BaseException:
        end()
        raise


class SpeechResponse(Response):
    """Sends speech, and ends the worker's part of it however the response ends, also if it never begins.

    Args:
        request: Whose answer this is.
        body: The body, in pieces as they come.
        encoder: What makes the audio in it.
        headers: More headers.
        end: Called when the response is over, however it ends.
        media_type: Content type; the encoder's if not given.
    """

    def __init__(
        self,
        request: Request,
        body: AsyncIterator[bytes],
        encoder: Encoder,
        headers: dict[str, str],
        end: Callable[[], None],
        media_type: str = "",
    ) -> None:
        self._request = request
        self._pieces = body
        self._end = end
        self._all_sent = False
        self.status_code = 200
        self.media_type = media_type or encoder.media_type
        self.background = None
        self.init_headers({**headers, "x-sonorant-sample-rate": str(encoder.sample_rate_hz)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = self._request.state.log
        try:
            await until_gone(self._request, self._send_all(send))
            fields["outcome"] = fields["outcome"] or "ok"
        except ClientGone:
            # Hypercorn also says "gone" when the last byte has been handed over.
            fields["outcome"] = fields["outcome"] or ("ok" if self._all_sent else "client_gone")
        except ApiError as error:
            # No more than this return: the server closes the connection without the last chunk.
            fields.update(outcome="cut", reason=error.reason, error=error.message)
        finally:
            self._end()

    async def _send_all(self, send: Send) -> None:
        fields = self._request.state.log
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for piece in self._pieces:
            if piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                if "ttfa_ms" not in fields:
                    fields["ttfa_ms"] = _ms_since(self._request)
                    tracing.event("first audio", ttfa_ms=fields["ttfa_ms"])
        self._all_sent = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _encoded(spoken: Speech, encoder: Encoder) -> AsyncIterator[bytes]:
    async for pcm in spoken:
        yield encoder.feed(pcm)
    yield encoder.flush()


async def _events(
    request: Request, plan: Plan, asked: SpeechRequest, spoken: Speech, encoder: Encoder
) -> AsyncIterator[bytes]:
    """Wrap the audio in OpenAI's events; a failure is one too, so this stream ends in good order either way.

    Marks go out with the audio that they stand before, never alone: what is sent first is then the first audio.
    """
    marks_sent = 0

    def marks() -> bytes:
        nonlocal marks_sent
        if not asked.verbose:
            return b""
        new, marks_sent = spoken.marks[marks_sent:], len(spoken.marks)
        return b"".join(_event("speech.mark", **plan.mark(mark, spoken.header)) for mark in new)

    try:
        async for audio in _encoded(spoken, encoder):
            if audio:
                yield marks() + _event("speech.audio.delta", audio=base64.b64encode(audio).decode())
    except ApiError as error:
        request.state.log.update(outcome="cut", reason=error.reason, error=error.message)
        yield marks() + _event("speech.audio.error", **error.body())
    else:
        done: dict[str, object] = {"usage": plan.usage(asked.input, spoken)}
        if asked.verbose:
            done |= {
                "audio_ms": round(1000 * plan.heard_s(spoken.header, spoken.num_samples)),
                "figures": _figures(request, spoken),
            }
        yield marks() + _event("speech.audio.done", **done)


def _figures(request: Request, spoken: Speech) -> dict[str, object]:
    """Write what the log will say of an utterance that has ended well."""
    line = Figures().add(spoken).line()
    line.pop("audio_s", None)  # As the model has made it, which is not always as it is heard.
    return {"ttfa_ms": request.state.log.get("ttfa_ms"), **line, "worker": spoken.header.worker_id}


def _ms_since(request: Request) -> float:
    """Time since a request has come, in milliseconds."""
    started: float = request.state.started
    return round(1000 * (time.monotonic() - started), 1)


def _event(kind: str, /, **more: object) -> bytes:
    return b"data: " + json.dumps({"type": kind, **more}, ensure_ascii=False).encode() + b"\n\n"


async def _whole(
    request: Request, plan: Plan, spoken: Speech, headers: dict[str, str], end: Callable[[], None]
) -> Response:
    """Gather the whole file, then answer with its length and real sizes."""
    encoder = plan.encoder(spoken.header)

    async def gather() -> list[bytes]:
        return [piece async for piece in _encoded(spoken, encoder) if piece]

    try:
        # Kept in pieces: a long text is hundreds of megabytes, which need not be copied once more.
        pieces = await until_gone(request, gather())
    finally:
        spoken.cancel()
    if head := encoder.head():
        pieces[0] = head + pieces[0][len(head) :]
    if spoken.was_cut:
        headers["x-sonorant-finish"] = "length"
    headers["content-length"] = str(sum(map(len, pieces)))

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return SpeechResponse(request, body(), encoder, headers, end)


async def _body(request: Request, limit: int) -> bytes:
    """Read the body.

    Raises:
        ApiError: It is not declared to be JSON, or too large.
    """
    declared = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if declared != "application/json" and not declared.endswith("+json"):
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"the content type is {declared!r}; send JSON, as 'application/json'")
    refusal = ApiError("BODY_TOO_LARGE", f"the body has over {limit} bytes, the most that is accepted")
    return b"".join([piece async for piece in body_of(request, limit, refusal)])
