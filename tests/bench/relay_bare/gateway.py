"""`python -m tests.bench.relay_bare.gateway PORT WORKER`: the least that a relay of speech over HTTP must do.

One call to the worker for each request, its PCM passed on as it comes. The first message is awaited before the status
is sent, raced against the client's hanging up, and the call is cancelled however the response ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from protos.tts.v1 import speech_pb2, speech_pb2_grpc


class Relay(StreamingResponse):
    def __init__(self, call, first) -> None:
        self._call = call
        super().__init__(self._pcm(first), media_type="audio/pcm")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._call.cancel()

    async def _pcm(self, message) -> AsyncIterator[bytes]:
        while message is not grpc.aio.EOF:
            if message.HasField("audio"):
                yield message.audio.pcm
            message = await self._call.read()


async def speech(request: Request) -> Response:
    asked = await request.json()
    call = request.app.state.worker.Synthesize(speech_pb2.SynthesizeRequest(model=asked["model"], input=asked["input"]))
    first, gone = asyncio.ensure_future(call.read()), asyncio.ensure_future(hangs_up(request))
    await asyncio.wait({first, gone}, return_when=asyncio.FIRST_COMPLETED)
    if gone.done():
        call.cancel()
        return Response(status_code=499)
    gone.cancel()
    return Relay(call, first.result())


async def hangs_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(worker: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with grpc.aio.insecure_channel(worker) as channel:
            app.state.worker = speech_pb2_grpc.SpeechServiceStub(channel)
            yield

    return Starlette(routes=[Route("/v1/audio/speech", speech, methods=["POST"])], lifespan=lifespan)


if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    uvloop.run(serve(create_app(sys.argv[2]), config))
