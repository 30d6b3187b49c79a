"""What the operator can set: environment variables with the prefix `SONORANT_`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.fleet.discovery import check
from protos.tls import Tls, check_certificates, check_pair

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")

OPENAI_VOICES = (
    *("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable"),
    *("marin", "nova", "onyx", "sage", "shimmer", "verse"),
)

INSTRUCTIONS_CHARS = 4096
"""Most characters of `instructions`, OpenAI's own limit."""


class Settings(BaseSettings):
    """Settings of one gateway process; a wrong value is refused at start."""

    model_config = SettingsConfigDict(env_prefix="SONORANT_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", min_length=1, description="Address that the gateway listens at.")
    port: int = Field(8000, ge=1, le=65535, description="Port that the gateway listens at.")
    workers: Annotated[tuple[str, ...], NoDecode] = Field(
        ("127.0.0.1:50051",),
        min_length=1,
        description="Where the workers are, separated by commas: `HOST:PORT`, `dns:///NAME:PORT`, `file:///PATH`.",
    )
    chunk_timeout_s: float = Field(
        60.0, gt=0, le=3600, description="How long a worker may be silent within a stream; then it is cut."
    )
    tls_ca: Path | None = Field(
        None, description="File of the certificates that sign those of workers; plaintext without it."
    )
    tls_cert: Path | None = Field(None, description="File of the gateway's certificate, for workers that ask for one.")
    tls_key: Path | None = Field(None, validate_default=True, description="The private key of the certificate.")
    tls_name: str = Field(
        "", description="Name that the certificates of workers have, where it is not what they are reached by."
    )
    worker_token: SecretStr = Field(SecretStr(""), description="What workers ask for; nothing is sent if empty.")
    default_model: str = Field("maureesewilliams/hibari", min_length=1, description="Model of requests that name none.")
    default_format: Literal["wav", "mp3", "opus", "aac", "flac", "pcm"] = Field(
        "wav", description="Format of requests that name none."
    )
    mp3_kbps: int = Field(64, ge=8, le=320, description="Bit rate of mp3, in kbit/s.")
    opus_kbps: int = Field(32, ge=6, le=256, description="Bit rate of Opus, in kbit/s.")
    aac_kbps: int = Field(64, ge=16, le=320, description="Bit rate of AAC, in kbit/s.")
    model_aliases: Annotated[Mapping[str, str], NoDecode] = Field(
        dict.fromkeys(("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15"), ""),
        description="Other names of models, `NAME=MODEL` or `NAME` for the default model, separated by commas.",
    )
    voice_aliases: Annotated[Mapping[str, str], NoDecode] = Field(
        dict.fromkeys(OPENAI_VOICES, ""),
        description="Voice names that every model knows, `NAME` or `NAME=VOICE`, separated by commas.",
    )
    api_keys_file: Path | None = Field(None, description="File of API keys; none are asked for without it.")
    public_discovery: bool = Field(True, description="Whether lists of models and voices need no API key.")
    rate_requests: int = Field(
        0, ge=0, le=1_000_000, description="Most requests for speech a minute, of each key; 0 for any number."
    )
    rate_characters: int = Field(
        0, ge=0, le=100_000_000, description="Most characters of text a minute, of each key; 0 for any number."
    )
    rate_streams: int = Field(0, ge=0, le=1_000_000, description="Most streams at once, of each key; 0 for any number.")
    data_dir: Path = Field(Path("~/.local/share/sonorant"), description="Where custom voices are kept.")
    max_voices: int = Field(100, ge=0, le=10_000, description="Most custom voices of an API key; 0 for none.")
    catalogue_ttl_s: float = Field(
        1800.0, ge=0, description="How long, in seconds, the hub's list of models counts as fresh."
    )
    cache_dir: Path = Field(Path("~/.cache/sonorant"), description="Where the last good list of the hub is kept.")
    max_input_chars: int = Field(32_768, ge=1, le=1_000_000, description="Most characters of `input`.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="Origins whose pages may call the API, separated by commas; `*` for any; none if empty."
    )
    first_audio_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="How long an utterance may wait for its first audio, loading included."
    )
    grace_s: float = Field(30.0, ge=0, le=3600, description="How long streams may run on after the signal to end.")
    log_format: Literal["console", "json"] = Field("console", description="`console` for people, `json` for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @field_validator("api_keys_file", "tls_ca", "tls_cert", "tls_key", mode="before")
    @classmethod
    def _may_be_empty(cls, value: object) -> object:
        return value or None

    @field_validator("tls_ca", "tls_cert")
    @classmethod
    def _are_certificates(cls, value: Path | None) -> Path | None:
        if value:
            check_certificates(value)
        return value

    @field_validator("tls_key")
    @classmethod
    def _fits(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_ca" in info.data and "tls_cert" in info.data:  # Else that is wrong already, and is said.
            check_pair(info.data["tls_cert"], value)
            if value and not info.data["tls_ca"]:
                raise ValueError("a certificate to show needs SONORANT_TLS_CA, too, to know the workers by")
        return value

    @field_validator("worker_token")
    @classmethod
    def _can_be_sent(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch("[!-~]*", value.get_secret_value()):  # Never quoted: it is a secret.
            raise ValueError("it must be of letters, digits and signs of ASCII, without spaces")
        return value

    @field_validator("tls_name")
    @classmethod
    def _has_a_use(cls, value: str, info: ValidationInfo) -> str:
        if value and "tls_ca" in info.data and not info.data["tls_ca"]:
            raise ValueError("a name to expect needs SONORANT_TLS_CA, too")
        return value

    @field_validator("workers", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("model_aliases", "voice_aliases", mode="before")
    @classmethod
    def _pair(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
        if any(not name.strip() for name, _, _ in pairs):
            raise ValueError("an alias has no name; give NAME or NAME=WHAT IT STANDS FOR")
        return {name.strip(): stands_for.strip() for name, _, stands_for in pairs}

    @field_validator("workers")
    @classmethod
    def _are_sources(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for source in value:
            check(source)
        if len(set(value)) < len(value):
            raise ValueError("an address stands there twice")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; give https://HOST[:PORT], or * for any")
        return value

    @property
    def tls(self) -> Tls | None:
        """How workers are known, and what they are shown; None for plaintext."""
        return Tls(self.tls_ca, self.tls_cert, self.tls_key, self.tls_name) if self.tls_ca else None

    @property
    def kbps(self) -> dict[str, int]:
        """Bit rates of the lossy formats, in kbit/s."""
        return {"mp3": self.mp3_kbps, "opus": self.opus_kbps, "aac": self.aac_kbps}

    @property
    def max_body_bytes(self) -> int:
        """Most bytes of a request's body: every character as two JSON escapes, and room for the rest."""
        return 12 * (self.max_input_chars + INSTRUCTIONS_CHARS) + 65_536
