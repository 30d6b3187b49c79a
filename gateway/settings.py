"""What the operator can set: environment variables with the prefix `SONORANT_`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_ADDRESS = re.compile(r"unix:.+|(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}")

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")

INSTRUCTIONS_CHARS = 4096
"""Most characters of `instructions`, OpenAI's own limit."""


class Settings(BaseSettings):
    """Settings of one gateway process; a wrong value is refused at start."""

    model_config = SettingsConfigDict(env_prefix="SONORANT_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", min_length=1, description="Address that the gateway listens at.")
    port: int = Field(8000, ge=1, le=65535, description="Port that the gateway listens at.")
    workers: Annotated[tuple[str, ...], NoDecode] = Field(
        ("127.0.0.1:50051",), min_length=1, description="Addresses of the workers, `HOST:PORT`, separated by commas."
    )
    default_model: str = Field("maureesewilliams/hibari", min_length=1, description="Model of requests that name none.")
    default_format: Literal["wav", "pcm"] = Field("wav", description="Format of requests that name none.")
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

    @field_validator("workers", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("workers")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            if not _ADDRESS.fullmatch(address):
                raise ValueError(f"{address!r} is no address of a worker; give HOST:PORT or unix:PATH")
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
    def max_body_bytes(self) -> int:
        """Most bytes of a request's body: every character as two JSON escapes, and room for the rest."""
        return 12 * (self.max_input_chars + INSTRUCTIONS_CHARS) + 65_536
