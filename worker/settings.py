"""What the operator can set: environment variables with the prefix `SONORANT_`, some of them options of the command."""

from __future__ import annotations

import re
import socket
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class WrongSetting(Exception):
    """A setting that cannot be met on this machine; another start would fail the same way."""


class Settings(BaseSettings):
    """Settings of one worker process; a wrong value is refused at start."""

    model_config = SettingsConfigDict(env_prefix="SONORANT_", frozen=True, extra="ignore")

    listen: str = Field("127.0.0.1:50051", min_length=1, description="Address that the worker listens at.")
    device: str = Field("auto", description="`auto` (first GPU, else the CPU), `cpu` or `cuda:N`.")
    engines: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Names of the engines to use, separated by commas; all installed ones if empty."
    )
    preload: Annotated[tuple[str, ...], NoDecode] | None = Field(
        None, description="Models to load at start, separated by commas; the default model if unset, none if empty."
    )
    default_model: str = Field("maureesewilliams/hibari", min_length=1, description="Model of requests that name none.")
    worker_id: str = Field(
        default_factory=socket.gethostname, pattern=r"^[!-~]{1,128}$", description="Name of this worker, in ASCII."
    )
    capacity: int = Field(64, ge=1, le=100_000, description="Most utterances at once; more are told to come back.")
    lead_s: float = Field(
        10.0, gt=0, le=3600, description="How far, in seconds of audio, the worker runs ahead of a slow reader."
    )
    first_audio_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="How long an utterance may wait for its first audio, loading included."
    )
    grace_s: float = Field(30.0, ge=0, le=3600, description="How long streams may run on after the signal to end.")
    log_format: Literal["console", "json"] = Field("console", description="`console` for people, `json` for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @field_validator("engines", "preload", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("device")
    @classmethod
    def _is_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda:\d+", value):
            raise ValueError("it must be auto, cpu or cuda:N")
        return value

    @property
    def preloaded(self) -> tuple[str, ...]:
        """Models to load at start."""
        return (self.default_model,) if self.preload is None else self.preload
