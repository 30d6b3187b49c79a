"""Speaks through Pipecat's OpenAI service; runs in the clients' environment, called by `test_pipecat.py`.

Its argument is JSON: `url`, `text`, `out` (the PCM goes there), `first` (a file to touch when the first audio is here)
and settings of the service.
"""

import asyncio
import json
import sys
from pathlib import Path

from pipecat.frames.frames import EndFrame, ErrorFrame, TTSAudioRawFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.workers.runner import WorkerRunner


def mark(path: str) -> None:
    Path(path).touch()


def keep(path: str, pcm: bytes) -> None:
    Path(path).write_bytes(pcm)


class Listener(FrameProcessor):
    """Keeps the audio."""

    def __init__(self, first):
        super().__init__()
        self.first = first
        self.pcm = bytearray()
        self.formats = set()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            mark(self.first)
            self.pcm += frame.audio
            self.formats.add((frame.sample_rate, frame.num_channels))
        await self.push_frame(frame, direction)


async def say(url: str, text: str, out: str, first: str, **settings: str) -> None:
    service = OpenAITTSService(
        api_key="none", base_url=url, sample_rate=24_000, settings=OpenAITTSService.Settings(**settings)
    )
    listener = Listener(first)
    worker = PipelineWorker(Pipeline([service, listener]), idle_timeout_secs=None)
    errors = []

    @service.event_handler("on_error")
    async def on_error(_service, error: ErrorFrame):
        errors.append(error.error)

    await worker.queue_frames([TTSSpeakFrame(text), EndFrame()])
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()
    keep(out, listener.pcm)
    print(json.dumps({"formats": sorted(listener.formats), "errors": errors}))


asyncio.run(say(**json.loads(sys.argv[1])))
