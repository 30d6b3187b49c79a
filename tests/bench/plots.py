"""Draws the curves of all scenarios: a picture with a panel for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.outcome import Curve

PLOTS = {
    "rate": ("requests each second, open loop", "time to first audio, p95 (ms)"),
    "talkers": ("talkers, closed loop", "audio made (seconds each second)"),
    "listeners": ("talkers who listen at real time", "streams without a gap"),
    "batch": ("utterances together", "audio made (seconds each second)"),
}
"""Labels of the axes."""


def draw(curves: Sequence[Curve], title: str, path: Path) -> None:
    """Draw curves; those of one kind share a panel."""
    from matplotlib import style
    from matplotlib.figure import Figure

    kinds = [kind for kind in PLOTS if any(curve.plot == kind for curve in curves)]
    if not kinds:
        return
    with style.context("default"):
        figure = Figure(figsize=(5.2 * len(kinds), 4), dpi=120, layout="constrained")
        for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
            for curve in (curve for curve in curves if curve.plot == kind):
                axes.plot(*zip(*sorted(curve.points), strict=True), marker="o", label=curve.name)
            axes.set_xlabel(PLOTS[kind][0])
            axes.set_ylabel(PLOTS[kind][1])
            axes.set_ylim(bottom=0)
            axes.grid(visible=True, alpha=0.3)
            axes.legend()
        figure.suptitle(title)
        figure.savefig(path, facecolor="white")
