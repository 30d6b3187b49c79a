"""`python -m tests.bench.relay_bare.worker PORT`: keeps the worker's contract, but speaks noise, at real time.

The text of a request says how: `{"chunk_ms": 80, "audio_s": 5}`. Each chunk begins with the time at which it was
handed over, in ns of the monotonic clock, as a little-endian 64-bit integer.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import time

import grpc
import uvloop

from protos.tts.v1 import models_pb2, models_pb2_grpc, speech_pb2, speech_pb2_grpc
from tests.stack import TONE
from worker.server import CHANNEL_OPTIONS

SAMPLE_RATE_HZ = 24_000
FORMAT = speech_pb2.AudioFormat(encoding=speech_pb2.AUDIO_ENCODING_PCM_S16LE, sample_rate_hz=SAMPLE_RATE_HZ, channels=1)


class Speech(speech_pb2_grpc.SpeechServiceServicer):
    async def Synthesize(self, request, context):  # noqa: N802
        asked = json.loads(request.input)
        num_samples = SAMPLE_RATE_HZ * asked["chunk_ms"] // 1000
        noise = os.urandom(2 * num_samples - 8)
        num_chunks = round(1000 * asked["audio_s"] / asked["chunk_ms"])
        begun = time.monotonic()
        for n in range(num_chunks):
            pause_s = begun + n * asked["chunk_ms"] / 1000 - time.monotonic()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            pcm = struct.pack("<q", time.monotonic_ns()) + noise
            message = speech_pb2.SynthesizeResponse(audio=speech_pb2.AudioChunk(first_sample=n * num_samples, pcm=pcm))
            if not n:
                message.header.CopyFrom(
                    speech_pb2.StreamHeader(worker_id="bare", model=TONE, voice="noise", format=FORMAT, speed=1.0)
                )
            await context.write(message)
        summary = speech_pb2.StreamSummary(total_samples=num_chunks * num_samples)
        await context.write(speech_pb2.SynthesizeResponse(summary=summary))


class Models(models_pb2_grpc.ModelServiceServicer):
    async def WatchStatus(self, request, context):  # noqa: N802
        model = models_pb2.Model(name=TONE, state=models_pb2.MODEL_STATE_READY, native_format=FORMAT)
        await context.write(models_pb2.WatchStatusResponse(worker_id="bare", boot_id="1", sequence=1, models=[model]))
        await asyncio.Event().wait()


async def serve(port: int) -> None:
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    speech_pb2_grpc.add_SpeechServiceServicer_to_server(Speech(), server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
