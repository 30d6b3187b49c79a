"""Custom voices: recordings that clients upload for models to imitate, kept on disk, each for its owner alone.

    <folder>/<16 hexadecimal digits for the owner>/voice_<32 hexadecimal digits>/voice.json
                                                                                 recording.wav

A voice is written beside its place and put there whole, and it is taken away whole, so several gateways may share the
folder. Knows neither HTTP nor which model can imitate a voice.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import TypeAdapter

from gateway.errors import ApiError

FACTS, SOUND = "voice.json", "recording.wav"

CACHED_RECORDINGS = 16
"""How many recordings stay in memory, of at most 2.9 MB each."""

ABANDONED_S = 3600.0
"""Age at which what a gateway has left half done is taken away."""

_ID = re.compile(r"voice_[0-9a-f]{32}")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CustomVoice:
    """What is known of a custom voice.

    Attributes:
        id: What a request names, `voice_` and 32 hexadecimal digits.
        name: For people to read.
        created_at: Unix time, in seconds.
        consent: The statement by which the speaker agreed.
        transcript: What is said in the recording; empty if nobody has told.
        language: BCP 47 tag of the language that the speaker speaks; empty if nobody has told.
        gender: `female`, `male` or empty.
        sample_rate_hz: Rate of the recording.
        duration_s: Length of the recording, in seconds.
    """

    id: str
    name: str
    created_at: int
    consent: str
    transcript: str
    language: str
    gender: str
    sample_rate_hz: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Reference:
    """A recording to imitate; whole, so that it stays usable for what has begun when its voice is deleted.

    Attributes:
        id: Of the voice.
        transcript: What is said in it; empty if nobody has told.
        sample_rate_hz: Its rate, 8000 to 48000 Hz.
        pcm: s16le [S], mono, from 1 to 30 s.
    """

    id: str
    transcript: str
    sample_rate_hz: int
    pcm: bytes


_FACTS_JSON = TypeAdapter(CustomVoice)


class VoiceStore:
    """All custom voices. Every method but `find` blocks on the disk: call them in a thread.

    Args:
        folder: Where they are.
        most: How many an owner may have.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most
        self._adding = threading.Lock()

    def find(self, owner: str, voice_id: str) -> Reference | None:
        """Look up the recording of a voice; costs nothing for what is no id, and little if asked again.

        Args:
            owner: Whose voices to look through.
            voice_id: What a request calls the voice.

        Returns:
            The recording; None if the owner has no such voice.
        """
        if not _ID.fullmatch(voice_id):
            return None
        place = self._home(owner) / voice_id
        try:
            # Asked of the disk each time: another gateway may have deleted it.
            changed_ns = (place / SOUND).stat().st_mtime_ns
            return _reference(place, changed_ns)
        except (OSError, EOFError, ValueError, wave.Error) as error:
            _warn(place, error)
            return None

    def get(self, owner: str, voice_id: str) -> CustomVoice | None:
        """Look up a voice; None if the owner has no such voice."""
        place = self._home(owner) / voice_id
        try:
            return _facts(place) if _ID.fullmatch(voice_id) else None
        except (OSError, ValueError) as error:
            _warn(place, error)
            return None

    def all_of(self, owner: str) -> list[CustomVoice]:
        """List the voices of an owner, the oldest first."""
        try:
            names = self._names(owner)
        except OSError as error:
            log.warning("custom voices cannot be read and are left out", path=str(self._folder), error=str(error))
            return []
        voices = [voice for name in names if (voice := self.get(owner, name))]
        return sorted(voices, key=lambda voice: (voice.created_at, voice.id))

    def add(
        self,
        owner: str,
        *,
        name: str,
        consent: str,
        transcript: str,
        language: str,
        gender: str,
        pcm: bytes,
        sample_rate_hz: int,
    ) -> CustomVoice:
        """Keep a voice.

        Args:
            owner: Whose it is.
            name: See `CustomVoice`, as for what follows.
            consent: The statement by which the speaker agreed.
            transcript: What is said in the recording.
            language: Of the speaker.
            gender: Of the speaker.
            pcm: The recording, s16le [S], mono, from 1 to 30 s.
            sample_rate_hz: Its rate, 8000 to 48000 Hz.

        Raises:
            ApiError: The owner has too many, the disk is full, or the folder cannot be written.
        """
        voice = CustomVoice(
            id=f"voice_{secrets.token_hex(16)}",
            name=name,
            created_at=int(time.time()),
            consent=consent,
            transcript=transcript,
            language=language,
            gender=gender,
            sample_rate_hz=sample_rate_hz,
            duration_s=round(len(pcm) / 2 / sample_rate_hz, 3),
        )
        home = self._home(owner)
        with self._adding, _writing("kept"):
            if len(self._names(owner)) >= self._most:
                raise ApiError(
                    "VOICE_LIMIT", f"there are {self._most} custom voices, the most that are kept; delete one first"
                )
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            home.mkdir(mode=0o700, exist_ok=True)
            _sweep(home)
            unfinished = Path(tempfile.mkdtemp(prefix=".", dir=home))
            try:
                _write(unfinished / SOUND, _wav(pcm, sample_rate_hz))
                _write(unfinished / FACTS, _FACTS_JSON.dump_json(voice, indent=2))
                unfinished.rename(home / voice.id)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
        return voice

    def delete(self, owner: str, voice_id: str) -> bool:
        """Delete a voice; from now on nobody finds it. False if the owner has no such voice.

        Raises:
            ApiError: The folder cannot be written.
        """
        if not _ID.fullmatch(voice_id):
            return False
        home = self._home(owner)
        gone = home / f".{secrets.token_hex(16)}"
        with _writing("deleted"):
            try:
                (home / voice_id).rename(gone)
            except (FileNotFoundError, NotADirectoryError):
                return False
            _reference.cache_clear()
            shutil.rmtree(gone)
        return True

    def _home(self, owner: str) -> Path:
        # A name of a key is no name of a folder.
        return self._folder / hashlib.sha256(owner.encode()).hexdigest()[:16]

    def _names(self, owner: str) -> list[str]:
        try:
            return [name for name in os.listdir(self._home(owner)) if _ID.fullmatch(name)]  # noqa: PTH208 (names only)
        except FileNotFoundError:
            return []


@functools.lru_cache(CACHED_RECORDINGS)
def _reference(place: Path, changed_ns: int) -> Reference:
    """Read a recording as it was at some time; that is there for the cache to tell versions apart."""
    voice = _facts(place)
    with wave.open(str(place / SOUND), "rb") as sound:
        pcm = sound.readframes(sound.getnframes())
        if (sound.getnchannels(), sound.getsampwidth(), len(pcm)) != (1, 2, 2 * sound.getnframes()):
            raise ValueError(f"{SOUND} has {len(pcm)} bytes; {sound.getnframes()} samples of 16 bits were to be there")
        return Reference(voice.id, voice.transcript, sound.getframerate(), pcm)


def _facts(place: Path) -> CustomVoice:
    voice = _FACTS_JSON.validate_json((place / FACTS).read_bytes())
    if voice.id != place.name:
        raise ValueError(f"{FACTS} is that of {voice.id!r}")
    return voice


def _warn(place: Path, error: Exception) -> None:
    # What is not there at all is deleted, or somebody else's. Where nothing may be looked at, nobody can tell.
    if isinstance(error, PermissionError) or place.exists():
        log.warning("a custom voice cannot be read and is left out", path=str(place), error=str(error))


def _wav(pcm: bytes, sample_rate_hz: int) -> bytes:
    """Write a file that costs nothing to read: that is done between other people's chunks."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate_hz)
        sound.writeframes(pcm)
    return file.getvalue()


@contextmanager
def _writing(done: str) -> Iterator[None]:
    """Say of a disk that refuses what that means for a voice, and tell clients no paths."""
    try:
        yield
    except OSError as error:
        log.error("custom voices cannot be written", error=str(error))
        reason = "DISK_FULL" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "STORAGE_FAILURE"
        raise ApiError(reason, f"the voice cannot be {done} on the server's disk: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    """Write a file for nobody else's eyes, and wait until it is on the disk: the rename must not overtake it."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sweep(home: Path) -> None:
    """Take away what a gateway that was killed has left."""
    for path in home.glob(".*"):
        try:
            is_abandoned = time.time() - path.stat().st_mtime > ABANDONED_S
        except FileNotFoundError:
            continue
        if is_abandoned:
            shutil.rmtree(path, ignore_errors=True)
