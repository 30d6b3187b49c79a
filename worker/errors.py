"""Everything a worker refuses or fails at, as one tree; knows nothing of gRPC beyond the names of its codes.

    WorkerError
    ├── InvalidRequest         a field is missing, of the wrong form or out of range
    │   ├── UnspeakableText    the voice cannot say the text
    │   └── UnsupportedOption  the model does not take the option
    ├── ModelNotFound          neither the worker nor the hub has the model
    ├── UnsupportedModel       the hub has it, but no engine here serves it
    ├── ModelForbidden         the operator or the hub does not let it be used
    ├── VoiceNotFound          the model has no such voice
    ├── WrongModelState        not loaded, or busy, where that matters
    ├── ModelLoading           not ready yet; it is being downloaded or loaded
    ├── HubUnavailable         the hub cannot be asked, or broke off
    ├── DiskFull               no room on disk for the files
    ├── OutOfMemory            no room in memory for the model
    ├── Overloaded             no room for another utterance
    ├── Draining               the worker takes nothing new
    ├── FirstAudioTimeout      no audio in time
    ├── WrongToken             the call does not come with the worker's token
    └── EngineFailure          the engine broke
        └── LoadFailure        it could not load the model

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
    """Neither the worker nor the hub has the model, or not at that revision."""

    reason, code = "MODEL_NOT_FOUND", "NOT_FOUND"


class UnsupportedModel(WorkerError):
    """The hub has the model, but no engine of this worker serves it."""

    reason, code = "UNSUPPORTED_MODEL", "UNIMPLEMENTED"


class ModelForbidden(WorkerError):
    """The operator has excluded the model, or the hub wants a token that has access to it."""

    reason, code = "MODEL_FORBIDDEN", "PERMISSION_DENIED"


class VoiceNotFound(WorkerError):
    """The model has no such voice."""

    reason, code = "VOICE_NOT_FOUND", "NOT_FOUND"


class WrongModelState(WorkerError):
    """The model is not loaded, or is in use, where that matters."""

    reason, code = "MODEL_STATE", "FAILED_PRECONDITION"


class ModelLoading(WorkerError):
    """The model is being downloaded or loaded, and the caller's time is over."""

    reason, code = "MODEL_LOADING", "UNAVAILABLE"


class HubUnavailable(WorkerError):
    """The hub cannot be reached, limits us, or broke a transfer off, and the model is not on disk."""

    reason, code = "HUB_UNAVAILABLE", "UNAVAILABLE"


class DiskFull(WorkerError):
    """The model's files do not fit on the disk, or not into its budget."""

    reason, code = "DISK_FULL", "RESOURCE_EXHAUSTED"


class OutOfMemory(WorkerError):
    """The model does not fit into memory, or not into its budget."""

    reason, code = "OUT_OF_MEMORY", "RESOURCE_EXHAUSTED"


class Overloaded(WorkerError):
    """As many utterances are under way as the worker takes."""

    reason, code = "OVERLOADED", "RESOURCE_EXHAUSTED"


class Draining(WorkerError):
    """The worker finishes what it has begun and takes nothing new."""

    reason, code = "DRAINING", "UNAVAILABLE"


class FirstAudioTimeout(WorkerError):
    """No audio came in the time that the caller was willing to wait."""

    reason, code = "FIRST_AUDIO_TIMEOUT", "DEADLINE_EXCEEDED"


class WrongToken(WorkerError):
    """The call does not come with the token that the operator has set."""

    reason, code = "WRONG_TOKEN", "UNAUTHENTICATED"


class EngineFailure(WorkerError):
    """The engine failed while it synthesised."""

    reason, code = "ENGINE_FAILURE", "INTERNAL"


class LoadFailure(EngineFailure):
    """The engine could not load the model: its files are broken, or not what it takes them for."""

    reason = "LOAD_FAILURE"
