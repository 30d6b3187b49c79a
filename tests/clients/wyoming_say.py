"""Speaks through a Wyoming server, as Home Assistant does; runs in the clients' environment, for `test_wyoming.py`.

Its argument is JSON: `port`, `voice`, `pieces` of text (one: a plain request; several: streamed in, as an LLM writes
them), `out` (the PCM goes there) and `first` (a file to touch when the first audio is here).
"""

import asyncio
import json
import sys
from pathlib import Path

from wyoming.audio import AudioChunk, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.info import Describe, Info
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)


def mark(path: str) -> None:
    Path(path).touch()


def keep(path: str, pcm: bytes) -> None:
    Path(path).write_bytes(pcm)


async def say(port: int, voice: str, pieces: list[str], out: str, first: str) -> None:
    pcm = bytearray()
    formats = set()
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(Describe().event())
        info = Info.from_event(await client.read_event())
        speaker = SynthesizeVoice(name=voice)
        is_streamed = len(pieces) > 1
        if is_streamed:
            await client.write_event(SynthesizeStart(voice=speaker).event())
            for piece in pieces:
                await client.write_event(SynthesizeChunk(text=piece).event())
            await client.write_event(SynthesizeStop().event())
        else:
            await client.write_event(Synthesize(text=pieces[0], voice=speaker).event())
        while event := await client.read_event():
            if Error.is_type(event.type):
                raise SystemExit(Error.from_event(event).text)
            if AudioChunk.is_type(event.type):
                chunk = AudioChunk.from_event(event)
                mark(first)
                pcm += chunk.audio
                formats.add((chunk.rate, chunk.channels, chunk.width))
            if (SynthesizeStopped if is_streamed else AudioStop).is_type(event.type):
                break
    keep(out, pcm)
    voices = [voice.name for program in info.tts for voice in program.voices]
    print(json.dumps({"formats": sorted(formats), "voices": voices}))


asyncio.run(say(**json.loads(sys.argv[1])))
