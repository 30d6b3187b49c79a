"""Writes what was measured: JSON and a picture by commit, and, where they are to be kept in git, by device."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.bench.outcome import Outcome
from tests.bench.plots import draw
from tests.stack import ROOT

RESULTS = ROOT / "bench-results"
KEPT = ROOT / "tests" / "bench" / "results"
PACKAGES = ("sonorant", "grpcio", "hypercorn", "uvloop", "numpy", "onnxruntime", "torch", "transformers", "hibari-tts")


def commit() -> str:
    """Name the commit that is measured; `-dirty` where files differ from it, but for results."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", f":!{KEPT.relative_to(ROOT)}")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if changed else "")


def write(outcomes: Mapping[str, Outcome], device_name: str, *, suffix: str = "", keep: bool = False) -> Path:
    """Write the outcomes.

    Args:
        outcomes: By the name of the scenario.
        device_name: What was measured on.
        suffix: Of the name of the files, to tell benchmarks apart.
        keep: Whether to write `tests/bench/results/<device><suffix>` too.

    Returns:
        The JSON file.
    """
    result = {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name,
        "python": platform.python_version(),
        "versions": dict(_versions()),
        "scenarios": {name: outcome.json() for name, outcome in outcomes.items()},
    }
    path = RESULTS / f"{result['commit']}{suffix}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    picture = path.with_suffix(".png")
    picture.unlink(missing_ok=True)
    curves = [curve for outcome in outcomes.values() for curve in outcome.curves]
    draw(curves, f"{device_name}, commit {result['commit']}", picture)
    if keep:
        KEPT.mkdir(exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-") + suffix
        for file in filter(Path.exists, (path, picture)):
            shutil.copy(file, KEPT / f"{name}{file.suffix}")
    return path


def _versions():
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
