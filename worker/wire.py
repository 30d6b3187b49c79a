"""Writes domain objects as messages of the contract, and knows what each side calls the same thing; decides nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from protos.tts.v1 import models_pb2, speech_pb2
from worker.audio import to_f32le, to_s16le
from worker.engines.base import Card
from worker.errors import ModelLoading, WorkerError
from worker.rows import Row
from worker.status import Status
from worker.store.residency import Resident, Stage
from worker.synthesis import Block, Mark

FIRST_CHUNK_S = 0.08
CHUNK_S = 0.8
"""A chunk costs the relay the same whatever its size, so only the first one is small."""

LONGEST_MESSAGE = 1000

STATES = {
    Stage.AVAILABLE: models_pb2.MODEL_STATE_AVAILABLE,
    Stage.DOWNLOADING: models_pb2.MODEL_STATE_DOWNLOADING,
    Stage.LOADING: models_pb2.MODEL_STATE_LOADING,
    Stage.WARMING_UP: models_pb2.MODEL_STATE_LOADING,
    Stage.READY: models_pb2.MODEL_STATE_READY,
    Stage.FAILED: models_pb2.MODEL_STATE_FAILED,
}
LOAD_STAGES = {
    Stage.DOWNLOADING: models_pb2.LOAD_STAGE_DOWNLOAD,
    Stage.LOADING: models_pb2.LOAD_STAGE_LOAD,
    Stage.WARMING_UP: models_pb2.LOAD_STAGE_WARMUP,
    Stage.READY: models_pb2.LOAD_STAGE_READY,
}
CLONING = {
    "": models_pb2.CLONING_UNSPECIFIED,
    "audio": models_pb2.CLONING_AUDIO,
    "audio and transcript": models_pb2.CLONING_AUDIO_AND_TRANSCRIPT,
}
_WRITERS = {speech_pb2.AUDIO_ENCODING_PCM_S16LE: to_s16le, speech_pb2.AUDIO_ENCODING_PCM_F32LE: to_f32le}


class StreamWriter:
    """Writes the blocks of one utterance as messages, and keeps count.

    Args:
        sample_rate_hz: Rate of the blocks.
        encoding: How samples are to be written.

    Attributes:
        format: What the header says of the PCM.
        total_samples: Samples written.
        segments: Segments begun.
        last_marks: Marks that are left for the summary's message.
        is_cut: Whether the model ran away and was cut.
        pause_s: What the end of the text asks for.
    """

    def __init__(self, sample_rate_hz: int, encoding: speech_pb2.AudioEncoding.ValueType) -> None:
        encoding = encoding or speech_pb2.AUDIO_ENCODING_PCM_S16LE
        self.format = speech_pb2.AudioFormat(encoding=encoding, sample_rate_hz=sample_rate_hz, channels=1)
        self.total_samples = 0
        self.segments = 0
        self.last_marks: list[speech_pb2.Mark] = []
        self.is_cut = False
        self.pause_s = 0.0
        self._write = _WRITERS[encoding]

    def messages(self, block: Block) -> Iterator[speech_pb2.SynthesizeResponse]:
        """Cut a block into chunks; its marks go with the first one, those of an empty block with the summary."""
        marks = [mark_message(mark) for mark in block.marks]
        self.is_cut = self.is_cut or block.is_cut
        self.pause_s = block.pause_s
        self.segments += sum(mark.end_sample is None for mark in block.marks)
        if not len(block.samples):
            self.last_marks.extend(marks)
        start = 0
        while start < len(block.samples):
            chunk_s = CHUNK_S if self.total_samples else FIRST_CHUNK_S
            samples = block.samples[start : start + int(chunk_s * self.format.sample_rate_hz)]
            audio = speech_pb2.AudioChunk(first_sample=self.total_samples, pcm=self._write(samples))
            start += len(samples)
            self.total_samples += len(samples)
            yield speech_pb2.SynthesizeResponse(audio=audio, marks=marks)
            marks = []


def summary_message(writer: StreamWriter, row: Row, first_audio_s: float) -> speech_pb2.StreamSummary:
    """Write what came of an utterance.

    Args:
        writer: What wrote its blocks.
        row: The utterance.
        first_audio_s: Time from the call's arrival to its first audio.
    """
    return speech_pb2.StreamSummary(
        total_samples=writer.total_samples,
        time_to_first_audio=duration(first_audio_s),
        synthesis_time=duration(row.busy_s),
        finish_reason=speech_pb2.FINISH_REASON_LENGTH if writer.is_cut else speech_pb2.FINISH_REASON_END,
        segments=writer.segments,
        pause=duration(writer.pause_s),
        queue_time=duration(row.queue_s),
        underruns=row.playback.underruns,
        underrun_time=duration(row.playback.underrun_s),
        stages=[
            speech_pb2.StageSummary(
                name=name, runs=noted.runs, time=duration(noted.busy_s), batch_size=noted.rows / noted.runs
            )
            for name, noted in row.stages.items()
        ],
    )


def options_schema(card: Card) -> dict[str, Any]:
    """JSON Schema of a model's options."""
    return {
        "type": "object",
        "properties": {name: dict(schema) for name, schema in card.options.items()},
        "additionalProperties": False,
    }


def model_message(resident: Resident) -> models_pb2.Model:
    """Write a model as this worker has it; what only a load tells is left out until it has been loaded once."""
    message = models_pb2.Model(
        name=resident.name,
        revision=resident.revision,
        engine=resident.engine.name if resident.engine else "",
        state=STATES[resident.stage],
        reason=resident.reason,
        active=resident.users,
        downloaded_bytes=resident.progress.done,
        download_bytes=resident.progress.total,
        memory_bytes=resident.size,
    )
    if card := resident.card:
        message.options_schema.update(options_schema(card))
        message.min_speed, message.max_speed = card.speeds
        message.takes_instructions = card.takes_instructions
        message.cloning = CLONING[card.cloning]
        message.native_format.CopyFrom(
            speech_pb2.AudioFormat(
                encoding=speech_pb2.AUDIO_ENCODING_PCM_S16LE, sample_rate_hz=card.sample_rate_hz, channels=1
            )
        )
        message.voices.extend(
            models_pb2.Voice(id=voice.id, name=voice.name, language=voice.language, gender=voice.gender)
            for voice in card.voices
        )
    return message


def mark_message(mark: Mark) -> speech_pb2.Mark:
    """Write the mark of a segment."""
    return speech_pb2.Mark(
        kind=speech_pb2.MARK_KIND_SEGMENT,
        text_start=mark.start,
        text_end=mark.stop,
        first_sample=mark.first_sample,
        end_sample=mark.end_sample,
    )


def status_message(status: Status, sequence: int) -> models_pb2.WatchStatusResponse:
    """Write what a worker is and has, now."""
    total, free = status.device.memory()
    return models_pb2.WatchStatusResponse(
        worker_id=status.worker_id,
        boot_id=status.boot_id,
        sequence=sequence,
        draining=status.scheduler.draining,
        models=map(model_message, status.models),
        device=models_pb2.Device(
            id=status.device.id, name=status.device.name, memory_total_bytes=total, memory_free_bytes=free
        ),
        active=status.scheduler.active,
        queued=status.scheduler.queued,
        capacity=status.scheduler.capacity,
        build=status.build,
        engines=sorted(status.registry.engines),
        starting=status.starting,
        expected_wait=duration(status.scheduler.expected_wait_s),
        memory_budget_bytes=0 if status.models.budget >= sys.maxsize // 2 else status.models.budget,
    )


def error_message(error: WorkerError, code: int) -> status_pb2.Status:
    """Write a failure with its details, as `errors.proto` says."""
    # It travels twice in the metadata, and where that is too long the whole call breaks.
    message = error.message if len(error.message) <= LONGEST_MESSAGE else f"{error.message[:LONGEST_MESSAGE]} ..."
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain="tts.v1")
    if error.field:
        info.metadata["field"] = error.field
    status = status_pb2.Status(code=code, message=message, details=[_packed(info)])
    if error.retry_after_s is not None:
        status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=duration(error.retry_after_s))))
    return status


def trailing_metadata(error: WorkerError, status: status_pb2.Status) -> tuple[tuple[str, str | bytes], ...]:
    """Write what goes with a failure, as `errors.proto` says."""
    details = ("grpc-status-details-bin", status.SerializeToString())
    # gRPC's own retries of what is UNAVAILABLE would spend all of the caller's time once more.
    return (details, ("grpc-retry-pushback-ms", "-1")) if isinstance(error, ModelLoading) else (details,)


def duration(seconds: float) -> Duration:
    """Write a number of seconds."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
