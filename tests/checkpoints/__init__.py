"""Tiny checkpoints with random weights, one module for each model family, laid out as the hub's repositories are.

They load through the libraries' own `from_pretrained` and make sounds, in a megabyte and a second or two each.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Family:
    """A model family with a checkpoint to test it by.

    Attributes:
        engine: Name of the engine that is to serve it.
        model: Id of its main repository, `org/name`.
        build: Writes its repositories as folders `root/org/name`. A file `.hub.json` in each says what the hub's API
            tells of it: `{"info": {"library_name": ..., "tags": [...], "config": {...}}}`.
        reference: What the library itself makes of one segment: `reference(root, text, voice, seed)` gives float32 [S]
            as the library's own call does after `torch.manual_seed(seed)`, untrimmed.
        tolerance: Largest difference of a sample from the library's own; 0 where the engine must be bit-identical.
    """

    engine: str
    model: str
    build: Callable[[Path], None]
    reference: Callable[[Path, str, str, int], npt.NDArray[np.float32]]
    tolerance: float = 0.0


def families() -> list[Family]:
    """Every family, from the modules of this package."""
    found: list[Family] = []
    for module in pkgutil.iter_modules(__path__):
        contents = vars(importlib.import_module(f"{__name__}.{module.name}"))
        found += contents.get("FAMILIES", [contents["FAMILY"]] if "FAMILY" in contents else [])
    return found
