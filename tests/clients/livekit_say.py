"""Speaks through LiveKit's plugin for OpenAI; runs in the clients' environment, called by `test_livekit.py`.

Its argument is JSON: `url` and `runs`, each with `text`, `out` (the PCM goes there), `first` (a file to touch when the
first audio is here), and options of the plugin's `TTS`.
"""

import asyncio
import json
import sys
from pathlib import Path

from livekit.plugins import openai


def mark(path: str) -> None:
    Path(path).touch()


def keep(path: str, pcm: bytes) -> None:
    Path(path).write_bytes(pcm)


async def say(url: str, text: str, out: str, first: str, **options: str) -> dict[str, object]:
    tts = openai.TTS(base_url=url, api_key="none", **options)
    metrics = {}
    tts.on("metrics_collected", lambda told: metrics.update(told.model_dump()))
    pcm = bytearray()
    formats = set()
    async with tts.synthesize(text) as stream:
        async for event in stream:
            mark(first)
            pcm += event.frame.data
            formats.add((event.frame.sample_rate, event.frame.num_channels))
    await tts.aclose()
    keep(out, pcm)
    tokens = [metrics.get(name) for name in ("input_tokens", "output_tokens")]
    return {"formats": sorted(formats), "tokens": tokens}


async def main(url: str, runs: list[dict[str, str]]) -> None:
    print(json.dumps([await say(url, **each) for each in runs]))


asyncio.run(main(**json.loads(sys.argv[1])))
