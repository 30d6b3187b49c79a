"""`WebSocket /v1/audio/speech/stream`: text in as it is written, audio out as it is made, for voice agents.

The path of a word: message → `Splitter` of its turn → one call to a worker per piece → the turn's one encoder → client.
A session has one task that reads, which never waits for anything else so that a cancel is always heard, and one that
speaks: turn after turn, piece after piece. Only the one that speaks ends a turn, so whatever the other one does to it,
its last message comes after its last audio.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from gateway import tracing
from gateway.audio.encode import Encoder
from gateway.auth import SUBPROTOCOL, Key
from gateway.errors import ApiError
from gateway.fleet.speech import Speech
from gateway.metrics import Figures
from gateway.plan import Plan, usage
from gateway.quotas import Admission
from gateway.schema import Append, Configure, parse_message
from gateway.sentences import Piece, Splitter
from protos.tts.v1 import speech_pb2

FRAME_BYTES = 24 * 1024
"""Most audio in one message: clients have limits, and between two messages there is room for a cancel."""

MOST_TURNS = 16
"""How many turns may wait to be spoken."""

MOST_REPLIES = 64
"""How many answers may wait for a client that does not read them."""

CLOSE_S = 2.0
"""How long the last answers may take to be read when a session is closed."""

NORMAL, UNSUPPORTED_DATA, POLICY_VIOLATION, TOO_LARGE, SERVICE_RESTART = 1000, 1003, 1008, 1009, 1012
"""Codes for closing (RFC 6455 and IANA); over what is too large, `gateway.server` does it."""


async def live(websocket: WebSocket) -> None:
    """Hold a session."""
    state = websocket.app.state
    try:
        _check_origin(websocket)
        if state.draining:
            raise ApiError("DRAINING", "the server is shutting down", retry_after_s=1.0)
    except ApiError as error:
        websocket.state.log.update(reason=error.reason, error=error.message)
        await websocket.send_denial_response(error.response())
        return
    await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None)
    session = Session(websocket)
    with state.sessions.opened(session):
        await session.run()


async def no_session(request: Request) -> Response:
    """Refuse a request that asks for no WebSocket."""
    raise ApiError(
        "UPGRADE_REQUIRED",
        f"{request.url.path} is a WebSocket; connect to it by one, or POST the whole text to /v1/audio/speech",
        headers={"upgrade": "websocket", "connection": "Upgrade"},
    )


class Turn:
    """A text on its way to speech.

    Args:
        number: Which one of the session, from 1.
        plan: How it is spoken.
        config: What the client has asked for.

    Attributes:
        splitter: Its text.
        is_whole: Whether its text has ended.
        is_done: Whether all of it has been spoken.
        is_dropped: Whether the client has cancelled it.
        failure: Why it has failed.
        spoken: The piece that is being spoken.
        header: What the worker said of the first piece.
        encoder: What makes the audio.
        num_segments: Segments spoken so far.
        num_samples: Samples so far, at the model's rate; pauses between pieces included.
        began_at: When its first piece could be spoken, on the monotonic clock.
        ttfa_ms: Time from then to its first audio sent; None before.
    """

    def __init__(self, number: int, plan: Plan, config: Configure) -> None:
        self.number = number
        self.plan = plan
        self.config = config
        self.splitter = Splitter(config.language or "", config.split)
        self.is_whole = False
        self.is_done = False
        self.is_dropped = False
        self.failure: ApiError | None = None
        self.spoken: Speech | None = None
        self.header: speech_pb2.StreamHeader | None = None
        self.encoder: Encoder | None = None
        self.num_segments = 0
        self.num_samples = 0
        self.began_at = 0.0
        self.ttfa_ms: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether no more of it is to be spoken."""
        return self.is_done or self.is_dropped or self.failure is not None

    @property
    def audio_s(self) -> float:
        """Length of the audio so far, as the client hears it, in seconds."""
        return self.plan.heard_s(self.header, self.num_samples) if self.header else 0.0

    def line(self) -> dict[str, object]:
        """Write what came of it, for its span."""
        outcome = "cancelled" if self.is_dropped else "ok" if self.is_done else "client_gone"
        fields = {"model": self.plan.model, "format": self.plan.format, "chars": self.splitter.num_chars}
        if failure := self.failure:
            outcome = "refused" if failure.form.status < 500 else "failed"
            fields |= {"reason": failure.reason, "error": failure.message}
        return {**fields, "audio_s": round(self.audio_s, 3), "outcome": outcome}

    def stop(self) -> None:
        """End the call to the worker, if there is one."""
        if self.spoken:
            self.spoken.cancel()


class Session:
    """One client.

    Args:
        websocket: An accepted one.
    """

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._state = websocket.app.state
        self._key: Key = websocket.state.key
        self._log: dict[str, object] = websocket.state.log
        # Models that draw their voice from the seed keep it from piece to piece and from turn to turn.
        self._seed = secrets.randbits(63)
        self._config, self._plan = self._configured(Configure())
        self._turns: deque[Turn] = deque()
        self._open: Turn | None = None  # The one whose text has not ended; not among the others if it was refused.
        self._num_turns = 0
        self._audio_s = 0.0
        self._figures = Figures()
        self._wake = asyncio.Event()
        self._is_closing = False
        self._is_draining = False
        self._replies: deque[dict[str, Any]] = deque()
        self._has_replies = asyncio.Event()
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Serve the client until it goes or the session ends."""
        tasks = [asyncio.create_task(work) for work in (self._read(), self._speak_turns(), self._send_replies())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            code = next(task.result() for task in tasks if task.done())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._log.update({**self._figures.line(), "turns": self._num_turns, "audio_s": round(self._audio_s, 3)})
        if code is None:
            return
        self._log["outcome"] = {NORMAL: "ok", SERVICE_RESTART: "drained"}.get(code, "refused")
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._send()
                await self._websocket.close(code)
        except TimeoutError:
            self._log["outcome"] = "cut"

    def drain(self) -> None:
        """Take no new turns, and end when those that have begun are over."""
        self._is_draining = True
        self._wake.set()

    # ---- what the client says

    async def _read(self) -> int | None:
        """Obey the client; return with which code to close, None if it has gone."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                # With which code the client has closed, Hypercorn does not tell.
                is_quiet = all(turn.is_over for turn in self._turns)
                self._log["outcome"] = (
                    "refused" if message.get("code") == TOO_LARGE else "ok" if is_quiet else "client_gone"
                )
                return None
            text = message.get("text")
            if text is None:
                self._reply_error(ApiError("INVALID_REQUEST", "a message was binary; send JSON as text"))
                return UNSUPPORTED_DATA
            try:
                self._obey(text)
            except ApiError as error:
                self._reply_error(error)
            if len(self._replies) > MOST_REPLIES:
                return POLICY_VIOLATION

    def _obey(self, text: str) -> None:
        message = parse_message(text)
        if self._is_closing:
            raise ApiError("INVALID_REQUEST", f"`type` is {message.type!r}; the session is being closed", param="type")
        if isinstance(message, Configure):
            self._configure(message)
        elif isinstance(message, Append):
            self._append(message.text)
        elif message.type == "text.flush":
            self._flush()
        elif message.type == "speech.cancel":
            self._cancel()
        else:
            self._is_closing = True
            if self._open:
                self._flush()
        self._wake.set()

    def _configure(self, asked: Configure) -> None:
        if self._open:
            raise ApiError(
                "INVALID_REQUEST",
                f"turn {self._open.number} has begun; end it by text.flush or speech.cancel before you configure",
                param="type",
            )
        self._config, self._plan = self._configured(asked)
        self._reply(
            "session.configured",
            model=self._plan.model,
            voice=asked.voice_name or None,
            response_format=self._plan.format,
            split=asked.split,
            audio=asked.audio,
        )

    def _configured(self, asked: Configure) -> tuple[Configure, Plan]:
        if asked.seed is None:
            asked = asked.model_copy(update={"seed": self._seed})
        state = self._state
        return asked, Plan(asked, self._key.name, state.catalogue, state.voices, state.settings)

    def _append(self, text: str) -> None:
        if not text:
            return
        turn = self._open or self._begin()
        max_chars = self._state.settings.max_input_chars
        if turn.is_over:
            return  # The client has been told, or will be; the rest of this text is lost with its beginning.
        if turn.splitter.num_chars + len(text) > max_chars:
            turn.failure = ApiError(
                "INVALID_REQUEST", f"the turn has over {max_chars} characters, the most that are accepted", param="text"
            )
            turn.stop()
        else:
            turn.splitter.feed(text)

    def _begin(self) -> Turn:
        self._num_turns += 1
        turn = self._open = Turn(self._num_turns, self._plan, self._config)
        if self._is_draining:
            turn.failure = ApiError("DRAINING", "the server is shutting down")
        elif len(self._turns) >= MOST_TURNS:
            turn.failure = ApiError("OVERLOADED", f"{len(self._turns)} turns wait to be spoken, the most that may")
        if turn.failure:
            self._reply_error(turn.failure, turn)
        else:
            self._turns.append(turn)
        return turn

    def _flush(self) -> None:
        if not self._open:
            raise ApiError("INVALID_REQUEST", "there is nothing to flush: no text has come since the last turn")
        self._open.is_whole = True
        self._open = None

    def _cancel(self) -> None:
        self._open = None
        dropped = [turn for turn in self._turns if not turn.is_over]
        for turn in dropped:
            turn.is_dropped = True
            turn.stop()
        if not dropped:
            self._reply("speech.cancelled", turn=None, audio_ms=0)

    # ---- what the client hears

    async def _speak_turns(self) -> int:
        """Speak; return with which code to close when there is nothing left to do."""
        while True:
            if self._turns:
                turn = self._turns[0]
                traced = tracing.turn(turn.number)
                try:
                    await self._speak(turn)
                finally:
                    if traced:
                        traced.end(turn.line())
                self._turns.popleft()
            elif self._is_closing:
                return NORMAL
            elif self._is_draining:
                return SERVICE_RESTART
            else:
                await self._news()

    async def _speak(self, turn: Turn) -> None:
        """Speak a turn, and say how it has ended."""
        admissions: list[Admission] = []
        done: dict[str, Any] = {}
        try:
            await self._speak_pieces(turn, admissions)
        except ApiError as error:
            turn.failure = turn.failure or turn.plan.explain(error)
        except asyncio.CancelledError:
            # A call that was cancelled raises this too, in a task that was not.
            task = asyncio.current_task()
            if not turn.is_over or (task and task.cancelling()):
                raise
        else:
            if not turn.is_over:
                turn.is_done = True
                done = usage(turn.splitter.num_chars, turn.audio_s)
        finally:
            turn.stop()
            for admission in admissions:
                admission.release()
            self._audio_s += turn.audio_s
        if done:
            await self._say("speech.done", turn=turn.number, usage=done, audio_ms=_ms(turn.audio_s))
        elif turn.is_dropped:
            await self._say("speech.cancelled", turn=turn.number, audio_ms=_ms(turn.audio_s))
        elif turn.failure:
            self._log.update(reason=turn.failure.reason, error=turn.failure.message)
            await self._say("error", **turn.failure.body(), turn=turn.number)

    async def _speak_pieces(self, turn: Turn, admissions: list[Admission]) -> None:
        pause = b""
        number = 0
        while piece := await self._next(turn):
            number += 1
            turn.began_at = turn.began_at or time.monotonic()
            if admissions:
                await admissions[0].add(len(piece.text))
            else:
                key: Key = self._websocket.state.who()  # Keys come and go while a session lasts.
                admissions.append(await self._state.quotas.admit(key, len(piece.text)))
            if turn.is_over:
                return
            request_id = f"{self._websocket.state.request_id[:96]}.{turn.number}.{number}"
            turn.spoken = spoken = turn.plan.speak(self._state.fleet, piece.text, request_id, turn.num_segments)
            try:
                await spoken.open()
                if turn.is_over:
                    return
                await self._begin_piece(turn, spoken.header)
                await self._relay(turn, piece, spoken, pause)
                if turn.is_over:
                    return
            finally:
                spoken.cancel()
                self._figures.add(spoken)
                self._state.metrics.note_speech(turn.plan.model, spoken)
            assert spoken.summary
            turn.num_segments += spoken.summary.segments
            pause_s = 0.0 if piece.is_broken else spoken.summary.pause.ToTimedelta().total_seconds()
            pause = bytes(2 * round(pause_s * spoken.header.format.sample_rate_hz))
        if turn.is_over:
            return
        if not turn.encoder:
            raise ApiError("INVALID_REQUEST", "the turn has no text to speak", param="text")
        await self._send_audio(turn, turn.encoder.flush())

    async def _next(self, turn: Turn) -> Piece | None:
        """Wait for the next piece; None if there is none left, or no use in it any more."""
        while not turn.is_over:
            piece = turn.splitter.take(is_whole=turn.is_whole)
            if piece and piece.text.strip():
                return piece
            if turn.is_whole:
                break
            await self._news()
        return None

    async def _begin_piece(self, turn: Turn, header: speech_pb2.StreamHeader) -> None:
        if turn.header:
            was, now = ((each.format.sample_rate_hz, each.speed) for each in (turn.header, header))
            if was != now:
                # Another revision on another worker; one encoder cannot go on with it.
                raise ApiError("ENGINE_FAILURE", f"the model changed within the turn: {was[0]} Hz, then {now[0]} Hz")
            return
        turn.header = header
        turn.encoder = turn.plan.encoder(header)
        self._log.update(model=header.model, voice=header.voice, format=turn.plan.format, worker=header.worker_id)
        await self._say(
            "speech.started",
            turn=turn.number,
            model=header.model,
            voice=header.voice,
            sample_rate=turn.encoder.sample_rate_hz,
            channels=1,
            format=turn.plan.format,
            worker=header.worker_id,
            ignored=list(header.ignored),
        )

    async def _relay(self, turn: Turn, piece: Piece, spoken: Speech, pause: bytes) -> None:
        """Send a piece's audio, after the pause that belongs before it, and its marks, each before its audio."""
        assert turn.encoder
        offset = turn.num_samples + len(pause) // 2
        marks_sent = 0
        async for pcm in spoken:
            await self._send_marks(turn, piece, spoken.marks[marks_sent:], offset)
            marks_sent = len(spoken.marks)
            if turn.is_over:
                return
            turn.num_samples = offset + spoken.num_samples
            await self._send_audio(turn, turn.encoder.feed(pause + pcm))
            pause = b""
            if turn.is_over:
                return
        await self._send_marks(turn, piece, spoken.marks[marks_sent:], offset)

    async def _send_marks(self, turn: Turn, piece: Piece, marks: Sequence[speech_pb2.Mark], offset: int) -> None:
        assert turn.header
        for mark in marks:
            fields = turn.plan.mark(mark, turn.header, first_sample=offset, first_char=piece.start)
            await self._say("speech.mark", turn=turn.number, **fields)

    async def _send_audio(self, turn: Turn, audio: bytes) -> None:
        for start in range(0, len(audio), FRAME_BYTES):
            if turn.is_over:
                return
            frame = audio[start : start + FRAME_BYTES]
            if turn.config.audio == "binary":
                await self._send({"type": "websocket.send", "bytes": frame})
            else:
                await self._say("speech.audio.delta", turn=turn.number, audio=base64.b64encode(frame).decode())
            if turn.ttfa_ms is None:
                turn.ttfa_ms = _ms(time.monotonic() - turn.began_at)
                self._log.setdefault("ttfa_ms", turn.ttfa_ms)
                self._state.metrics.note_first_audio(turn.plan.model, turn.ttfa_ms, is_live=True)
                tracing.event("first audio", ttfa_ms=turn.ttfa_ms)

    async def _news(self) -> None:
        self._wake.clear()
        await self._wake.wait()

    # ---- messages to the client

    def _reply(self, kind: str, /, **fields: object) -> None:
        """Have a message sent, without waiting for a client that is slow to read."""
        self._replies.append(_message(kind, **fields))
        self._has_replies.set()

    def _reply_error(self, error: ApiError, turn: Turn | None = None) -> None:
        self._log.update(reason=error.reason, error=error.message)
        self._reply("error", **error.body(), turn=turn.number if turn else None)

    async def _send_replies(self) -> None:
        while True:
            await self._has_replies.wait()
            self._has_replies.clear()
            await self._send()

    async def _say(self, kind: str, /, **fields: object) -> None:
        await self._send(_message(kind, **fields))

    async def _send(self, message: dict[str, Any] | None = None) -> None:
        """Send a message after all replies that came before it; waits as long as the client is slow to read."""
        # Never given up midway, but with the session: what was taken out of the replies and then not sent is lost.
        async with self._sending:
            while self._replies:
                await self._websocket.send(self._replies.popleft())
            if message:
                await self._websocket.send(message)


class Sessions:
    """All sessions of the process, so that it can end them in good order."""

    def __init__(self) -> None:
        self._sessions: set[Session] = set()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sessions)

    @contextmanager
    def opened(self, session: Session) -> Iterator[None]:
        """Count a session as long as the context stands."""
        self._sessions.add(session)
        try:
            yield
        finally:
            self._sessions.discard(session)
            self._changed.set()

    def drain(self) -> None:
        """Let each end when the turns that it has begun are over."""
        for session in self._sessions:
            session.drain()

    async def idle(self) -> None:
        """Wait until there is none."""
        while self._sessions:
            self._changed.clear()
            await self._changed.wait()


def _check_origin(websocket: WebSocket) -> None:
    """Refuse pages that may not call: browsers leave this check to the server.

    Raises:
        ApiError: The page is of an origin that is not listed.
    """
    origins = websocket.app.state.settings.cors_origins
    origin = websocket.headers.get("origin")
    is_own = origin and origin.partition("://")[2] == websocket.headers.get("host")
    if origin and not is_own and origin not in origins and "*" not in origins:
        raise ApiError("FOREIGN_ORIGIN", f"pages of {origin} may not connect; see SONORANT_CORS_ORIGINS")


def _message(kind: str, /, **fields: object) -> dict[str, Any]:
    # Plain ASCII: an error may quote what the client sent, also half a surrogate pair.
    return {"type": "websocket.send", "text": json.dumps({"type": kind, **fields})}


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
