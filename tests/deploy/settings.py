"""What the files of deploy/ are compared with: the settings of the processes, and what the images say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from gateway.settings import Settings as GatewaySettings
from tests.stack import ROOT
from worker.settings import Settings as WorkerSettings

SETTINGS = {"gateway": GatewaySettings, "worker": WorkerSettings}

ELSEWHERE = {
    # Of the hub's library, of CUDA and of the interpreter.
    *("HF_TOKEN", "HF_HOME", "CUDA_CACHE_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
    *("PATH", "HOME", "PYTHONDONTWRITEBYTECODE"),
}


def unknown(side: str, variables: set[str]) -> set[str]:
    """Those that the process of this side does not know."""
    known = {f"SONORANT_{name.upper()}" for name in SETTINGS[side].model_fields}
    return variables - known - ELSEWHERE


def check(side: str, variables: Mapping[str, str | None]) -> None:
    """See that the process of this side takes these values, but for certificates, whose files are not here."""
    known = SETTINGS[side].model_fields
    given = {name.removeprefix("SONORANT_").lower(): value for name, value in variables.items()}
    taken = {name: value for name, value in given.items() if value is not None and name in known}
    SETTINGS[side](**{name: value for name, value in taken.items() if not name.startswith("tls_")})


def instructions(side: str) -> list[tuple[str, str]]:
    """The instructions of an image's Dockerfile, continued lines joined."""
    text = (ROOT / "deploy" / "docker" / f"{side}.Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines.splitlines()) if word
    ]


def image(side: str) -> dict[str, str]:
    """The variables that an image sets."""
    every = " ".join(rest for word, rest in instructions(side) if word == "ENV")
    return dict(re.findall(r"(\w+)=(\S+)", every))


def user(side: str) -> int:
    """Number of the user that an image runs as."""
    (number,) = [rest.partition(":")[0] for word, rest in instructions(side) if word == "USER"]
    return int(number)


def volumes(side: str) -> list[str]:
    """Folders that an image wants to be volumes."""
    (rest,) = [rest for word, rest in instructions(side) if word == "VOLUME"]
    return list(json.loads(rest))
