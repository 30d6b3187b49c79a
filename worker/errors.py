"""Everything a worker refuses or fails at, as one tree; knows nothing of gRPC beyond the names of its codes.

    WorkerError
    ├── InvalidRequest         a field is missing, of the wrong form or out of range
    │   ├── UnspeakableText    the voice cannot say the text
    │   └── UnsupportedOption  the model does not take the option
    ├── ModelNotFound          no engine serves the model
    ├── VoiceNotFound          the model has no such voice
    ├── WrongModelState        not loaded, or busy, where that matters
    ├── Overloaded             no room for another utterance
    ├── Draining               the worker takes nothing new
    ├── FirstAudioTimeout      no audio in time
    └── EngineFailure          the engine broke

Each class names the `ErrorReason` of `protos/tts/v1/errors.proto` and the gRPC code that carry it.
"""

from __future__ import annotations

from typing import ClassVar


class WorkerError(Exception):
    """A failure that the caller is told of.

    Args:
        message: What went wrong; names the value at fault and what is accepted.
        field: The request field at fault, if one is.
        retry_after_s: When a later try may succeed, in seconds.
    """

    reason: ClassVar[str]
    code: ClassVar[str]

    def __init__(self, message: str, *, field: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidRequest(WorkerError):
    """A field of the request is missing, of the wrong form or out of range."""

    reason, code = "INVALID_REQUEST", "INVALID_ARGUMENT"


class UnspeakableText(InvalidRequest):
    """The voice has no way to say the text, or some characters of it."""

    reason = "UNSPEAKABLE_TEXT"


class UnsupportedOption(InvalidRequest):
    """The model does not know the option, or not that value of it."""

    reason = "UNSUPPORTED_OPTION"


class ModelNotFound(WorkerError):
    """No engine of this worker serves the model."""

    reason, code = "MODEL_NOT_FOUND", "NOT_FOUND"


class VoiceNotFound(WorkerError):
    """The model has no such voice."""

    reason, code = "VOICE_NOT_FOUND", "NOT_FOUND"


class WrongModelState(WorkerError):
    """The model is not loaded, or is in use, where that matters."""

    reason, code = "MODEL_STATE", "FAILED_PRECONDITION"


class Overloaded(WorkerError):
    """As many utterances are under way as the worker takes."""

    reason, code = "OVERLOADED", "RESOURCE_EXHAUSTED"


class Draining(WorkerError):
    """The worker finishes what it has begun and takes nothing new."""

    reason, code = "DRAINING", "UNAVAILABLE"


class FirstAudioTimeout(WorkerError):
    """No audio came in the time that the caller was willing to wait."""

    reason, code = "FIRST_AUDIO_TIMEOUT", "DEADLINE_EXCEEDED"


class EngineFailure(WorkerError):
    """The engine failed while it loaded the model or synthesised."""

    reason, code = "ENGINE_FAILURE", "INTERNAL"
