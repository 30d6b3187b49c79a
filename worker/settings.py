"""What the operator can set: environment variables with the prefix `SONORANT_`, some of them options of the command."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from protos.tls import Tls, check_certificates, check_pair


class WrongSetting(Exception):
    """A setting that cannot be met on this machine; another start would fail the same way."""


class Settings(BaseSettings):
    """Settings of one worker process; a wrong value is refused at start."""

    model_config = SettingsConfigDict(env_prefix="SONORANT_", frozen=True, extra="ignore")

    listen: str = Field("127.0.0.1:50051", min_length=1, description="Address that the worker listens at.")
    tls_ca: Path | None = Field(
        None, description="File of the certificates that sign those of callers, who must have one then."
    )
    tls_cert: Path | None = Field(None, description="File of the worker's certificate; plaintext without it.")
    tls_key: Path | None = Field(None, validate_default=True, description="The private key of the certificate.")
    worker_token: SecretStr = Field(SecretStr(""), description="What callers must send; nothing if empty.")
    metrics_listen: str = Field("", description="Address that Prometheus finds `/metrics` at; none if empty.")
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
    allow_models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="Patterns of the model ids that may be used, separated by commas."
    )
    deny_models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Patterns of the model ids that may not, separated by commas."
    )
    trust_remote_code: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Model ids whose repositories may run code of their own, separated by commas."
    )
    vocoder_dtype: Literal["", "float32", "float16", "bfloat16"] = Field(
        "", description="Numbers that the vocoders of VITS models compute in; those of their weights if empty."
    )
    memory_budget: str = Field(
        "80%", description="Most memory that models may hold: `8GiB`, or a share of the device's, `80%`."
    )
    disk_budget: str = Field("100%", description="Most disk that downloaded models may take: `50GiB`, or `80%`.")
    idle_ttl_s: float = Field(
        3600.0, ge=0, description="Seconds after which a model that nobody uses leaves memory; 0 for never."
    )
    pinned: Annotated[tuple[str, ...], NoDecode] | None = Field(
        None, description="Models that never leave memory by themselves; those loaded at start if unset."
    )
    cache_dir: Path = Field(
        Path("~/.cache/sonorant"),
        description="Where it is noted which models were downloaded. Their files are in HF_HUB_CACHE.",
    )
    capacity: int = Field(1024, ge=1, le=100_000, description="Most utterances at once; more are told to come back.")
    queue_s: float = Field(
        0.5, gt=0, le=3600, description="Longest wait for the device, in seconds; in a burst three times as long."
    )
    threads: int = Field(0, ge=0, le=1024, description="Cores that a worker on the CPU uses; all that it may use if 0.")
    lead_s: float = Field(
        10.0, gt=0, le=3600, description="How far, in seconds of audio, the worker runs ahead of a slow reader."
    )
    first_audio_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="How long an utterance may wait for its first audio, loading included."
    )
    grace_s: float = Field(30.0, ge=0, le=3600, description="How long streams may run on after the signal to end.")
    log_format: Literal["console", "json"] = Field("console", description="`console` for people, `json` for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @field_validator("engines", "preload", "allow_models", "deny_models", "trust_remote_code", "pinned", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("tls_ca", "tls_cert", "tls_key", mode="before")
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
            if info.data["tls_ca"] and not value:
                raise ValueError("SONORANT_TLS_CA is set, which needs SONORANT_TLS_CERT and SONORANT_TLS_KEY")
        return value

    @field_validator("worker_token")
    @classmethod
    def _can_be_sent(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch("[!-~]*", value.get_secret_value()):  # Never quoted: it is a secret.
            raise ValueError("it must be of letters, digits and signs of ASCII, without spaces")
        return value

    @field_validator("device")
    @classmethod
    def _is_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda:\d+", value):
            raise ValueError("it must be auto, cpu or cuda:N")
        return value

    @field_validator("metrics_listen")
    @classmethod
    def _is_place(cls, value: str) -> str:
        place(value)
        return value

    @field_validator("memory_budget", "disk_budget")
    @classmethod
    def _is_amount(cls, value: str) -> str:
        amount_bytes(value, total=0)
        return value

    @property
    def tls(self) -> Tls | None:
        """What the worker shows and asks for; None for plaintext."""
        return Tls(self.tls_ca, self.tls_cert, self.tls_key) if self.tls_cert else None

    @property
    def metrics_place(self) -> tuple[str, int] | None:
        """Host and port of the metrics; None if they are not served."""
        return place(self.metrics_listen)

    @property
    def stays(self) -> tuple[str, ...]:
        """Models that never leave memory by themselves."""
        return self.preloaded if self.pinned is None else self.pinned

    @property
    def preloaded(self) -> tuple[str, ...]:
        """Models to load at start."""
        return (self.default_model,) if self.preload is None else self.preload


def place(address: str) -> tuple[str, int] | None:
    """Read an address, `HOST:PORT` with an IPv6 address in brackets; None if it is empty.

    Raises:
        ValueError: It is no address.
    """
    if not address:
        return None
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+)):(\d{1,5})", address, re.ASCII)
    if not match or not 1 <= int(match[3]) <= 65535:
        raise ValueError(f"{address!r} is no address to listen at; give HOST:PORT, such as 127.0.0.1:9090")
    return match[1] or match[2], int(match[3])


def amount_bytes(amount: str, total: int) -> int:
    """Read an amount of memory: `512MB`, `8GiB`, or `80%` of a total.

    Raises:
        ValueError: It is neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(%|[KMGT]i?B|B?)", amount.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(f"{amount!r} is no amount of memory; give for example 8GiB, 500MB or 80%")
    number, unit = float(match[1]), match[2].upper()
    if unit == "%":
        return int(total * number / 100)
    base = 1024 if "I" in unit else 1000
    return int(number * base ** " KMGT".index(unit[0] if len(unit) > 1 else " "))
