"""`make bench-gpu [ARGS="--keep --check"]`: models of full size on a GPU, with random weights, which cost the same.

VITS at the size of mms-tts: first audio at fixed rates of arrivals, and streams without a gap, by the scheduler in this
process and through gateway and worker. CSM at the size of `sesame/csm-1b`: audio made by 1 to 32 utterances together.

`--device cpu --small` runs all of it with tiny models, where there is no GPU; the limits are for GPUs alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import random_weights, record, servers
from tests.bench.capacity import Tried, best, search
from tests.bench.inside import Inside, with_inside
from tests.bench.listener import Answer, summary
from tests.bench.load import Plan, run
from tests.bench.outcome import Check, Curve, Outcome, Row
from tests.bench.texts import SENTENCES
from tests.hub import Hub
from tests.stack import ROOT, Stack
from worker import device
from worker.device import Device
from worker.engines.base import Checkpoint, Model

TTFA_LIMIT_MS, CHECKED_RATE = 50.0, 100.0
STREAMS_LIMIT = 500
BATCH_LIMIT, CHECKED_BATCH = 8.0, 16
SHORT = "so it is"
"""What CSM speaks: with random weights it goes on for as long as a text of that length may sound, some 7 s."""

Arrive = Callable[[Plan], Sequence[Answer]]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        is_small: Whether models are tiny.
        seconds: Length of a load.
        rates: Requests each second.
        streams: Where the search for the streams begins.
        batches: Utterances together.
    """

    is_small: bool
    seconds: float
    rates: tuple[float, ...] = (25.0, 50.0, 100.0, 200.0)
    streams: int = 500
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)

    def name(self, model: str) -> str:
        """Say how large a model is; `model` is as large as the full one."""
        return "of tiny size" if self.is_small else f"at the size of {model}"


def main() -> int:
    """Measure everything."""
    parser = argparse.ArgumentParser(prog="make bench-gpu ARGS=...")
    parser.add_argument("--device", default="auto", help="`auto` (the first GPU, else the CPU), `cpu` or `cuda:N`")
    parser.add_argument("--small", action="store_true", help="tiny models and loads, to see that everything runs")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a load")
    parser.add_argument("--check", action="store_true", help="fail if a figure exceeds its limit")
    parser.add_argument("--keep", action="store_true", help="write tests/bench/results/<device>, which is kept in git")
    arguments = parser.parse_args()
    where = device.find(arguments.device)
    sizes = Sizes(is_small=False, seconds=arguments.seconds)
    if arguments.small:
        sizes = Sizes(is_small=True, seconds=2.0, rates=(5.0, 10.0), streams=20, batches=(1, 2, 4))
    print(f"{where.name}, commit {record.commit()}{', tiny models' if arguments.small else ''}")
    suffix = "-gpu-small" if arguments.small else "-gpu"
    outcomes: dict[str, Outcome] = {}
    for name, measure in {"vits": vits, "vits_stack": vits_stack, "csm": csm}.items():
        outcomes[name] = measure(where, sizes)
        outcomes[name].print()
        where.give_back()
        path = record.write(outcomes, where.name, suffix=suffix, keep=arguments.keep)
    missed = [str(check) for outcome in outcomes.values() for check in outcome.checks if not check.is_met]
    print(f"\n{path.relative_to(ROOT)}\n{len(missed)} limits missed", *missed, sep="\n")
    return 1 if missed and arguments.check else 0


def vits(where: Device, sizes: Sizes) -> Outcome:
    """VITS by the scheduler in this process."""
    found = Outcome(f"VITS {sizes.name('mms-tts')}, by the scheduler in process")
    with tempfile.TemporaryDirectory() as root:
        model = load(random_weights.vits(Path(root), is_small=sizes.is_small), where)

    def arrive(plan: Plan) -> list[Answer]:
        async def follow(inside: Inside) -> list[Answer]:
            # As in a worker that has spoken before: it knows what the model costs, and who may be let in.
            for seed, text in enumerate(plan.texts[:4]):
                await inside.speak(text, seed)
            return await inside.follow(plan)

        answers: list[Answer] = with_inside(model, where, follow)
        return answers

    rates_and_streams("in process", arrive, Plan(0, random_weights.VITS, SENTENCES, sizes.seconds), sizes, found)
    return limited(found, where, sizes)


def vits_stack(where: Device, sizes: Sizes) -> Outcome:
    """VITS over HTTP."""
    found = Outcome(f"VITS {sizes.name('mms-tts')}, over HTTP")
    with served(where, sizes) as stack:
        plan = Plan(stack.gateway.port, random_weights.VITS, SENTENCES, sizes.seconds)
        rates_and_streams("over HTTP", run, plan, sizes, found)
    return limited(found, where, sizes)


@contextmanager
def served(where: Device, sizes: Sizes) -> Iterator[Stack]:
    """Start a stack that has the model from a hub."""
    with tempfile.TemporaryDirectory() as name:
        hub = Hub(Path(name))
        try:
            random_weights.vits(hub.root, is_small=sizes.is_small)
            settings = {"SONORANT_DEVICE": where.id}
            with servers.from_hub(hub, Path(name), random_weights.VITS, "vits", settings) as stack:
                yield stack
        finally:
            hub.end()


def rates_and_streams(how: str, arrive: Arrive, plan: Plan, sizes: Sizes, found: Outcome) -> None:
    """Measure the first audio at each rate, then how many can listen."""

    def at(rate: float = 0.0, talkers: float = 0.0) -> Sequence[Answer]:
        listening = talkers > 0
        return arrive(
            Plan(plan.port, plan.model, plan.texts, plan.seconds, rate, round(talkers), listens=listening, seed=1)
        )

    at(rate=sizes.rates[0])  # To warm up: shapes are compiled or captured when they come first.
    heard = {rate: summary(at(rate=rate)) for rate in sizes.rates}
    found.tables["open loop, by rate"] = {f"{rate:g} requests/s": row for rate, row in heard.items()}
    found.curves.append(
        Curve("rate", f"VITS, {how}", [(rate, row["ttfa_p95_ms"]) for rate, row in heard.items() if row["spoken"]])
    )
    tried: Sequence[Tried] = search(lambda talkers: at(talkers=talkers), sizes.streams)
    found.tables["closed loop at real time, by talkers"] = {
        f"{each.level:.0f}": {**summary(each.answers), "carried": str(each.is_carried)} for each in tried
    }
    found.curves.append(Curve("listeners", f"VITS, {how}", [(each.level, each.streams) for each in tried]))
    found.raw["streams"] = best(tried).level if best(tried).is_carried else 0


def limited(found: Outcome, where: Device, sizes: Sizes) -> Outcome:
    """Hold the figures against the limits, on a GPU."""
    if where.id == "cpu" or sizes.is_small:
        return found
    row = found.tables["open loop, by rate"][f"{CHECKED_RATE:g} requests/s"]
    found.checks += [
        Check(f"first audio, p95 at {CHECKED_RATE:g} requests/s, ms", float(row["ttfa_p95_ms"]), TTFA_LIMIT_MS),
        Check(f"listeners who ran dry at {CHECKED_RATE:g} requests/s", float(row["dry_streams"]), 0),
        Check(f"not spoken at {CHECKED_RATE:g} requests/s", float(row["requests"]) - float(row["spoken"]), 0),
        Check("streams without a gap", float(str(found.raw["streams"])), STREAMS_LIMIT, is_most=False),
    ]
    return found


def csm(where: Device, sizes: Sizes) -> Outcome:
    """CSM by the scheduler in this process; all utterances of a batch begin together."""
    found = Outcome(f"CSM {sizes.name('csm-1b')}, utterances together, in process")
    with tempfile.TemporaryDirectory() as root:
        model = load(random_weights.csm(Path(root), is_small=sizes.is_small, device=where.id), where)

    async def speak(inside: Inside) -> dict[int, Row]:
        rows: dict[int, Row] = {}
        for count in (1, *sizes.batches):  # The first is to warm up.
            inside.runs.clear()
            began_s = inside.now_s()
            heard = await asyncio.gather(*(inside.speak(SHORT, seed) for seed in range(count)))
            took_s = inside.now_s() - began_s
            runs = [(rows, len(took)) for (_, rows), took in inside.runs.items()]
            rows[count] = {
                "audio_per_s": round(sum(answer.audio_s for answer in heard) / took_s, 3),
                "ttfa_p50_ms": summary(heard)["ttfa_p50_ms"],
                "rows_per_run": round(sum(rows * times for rows, times in runs) / sum(times for _, times in runs), 2),
            }
        return rows

    rows: dict[int, Row] = with_inside(model, where, speak, admits_all=True)
    speeds = {count: float(row["audio_per_s"]) for count, row in rows.items()}
    found.tables["by utterances together"] = {
        str(count): {**row, "of_one": round(speeds[count] / speeds[1], 2)} for count, row in rows.items()
    }
    found.curves.append(Curve("batch", "CSM", list(speeds.items())))
    if where.id != "cpu" and CHECKED_BATCH in speeds:
        what = f"audio made by {CHECKED_BATCH} together / by one"
        found.checks.append(Check(what, speeds[CHECKED_BATCH] / speeds[1], BATCH_LIMIT, is_most=False))
    return found


def load(checkpoint: Checkpoint, where: Device) -> Model:
    """Load a model as the worker does."""
    from worker.engines.registry import Registry

    engine = Registry.installed((checkpoint.name.rpartition("/")[2],)).engines
    (found,) = engine.values()
    with found.loading():
        return found.load(checkpoint, where.id)


if __name__ == "__main__":
    sys.exit(main())
