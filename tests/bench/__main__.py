"""`make bench [ARGS="NAMES… --check"]`: prints tables, writes `bench-results/<commit>.json` and a picture beside it.

Every scenario is a module of this package with a function `measure`. What it finds stands beside a limit that was
measured in the same run: the engine alone, the bare relay, the library's own way. `--check` fails if one is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from tests.bench import fleet, formats, hibari, lanes, one_stream, overload, piper, record, relay, sustained, vits
from tests.bench.outcome import Check, Options, Outcome
from tests.stack import ROOT
from worker import device

RELAY_LIMIT = 0.8


def relayed(options: Options) -> Outcome:
    """What the gateway costs as a relay; see `tests.bench.relay`."""
    found = Outcome("the gateway beside a bare relay, same worker, same streams")
    rows = relay.measure(3 * options.seconds)
    found.tables["by length of the chunks"] = dict(rows)
    found.checks = [
        Check(f"streams per core of the gateway / of a bare relay, {name}", row["ratio"], RELAY_LIMIT, is_most=False)
        for name, row in rows.items()
    ]
    return found


SCENARIOS: dict[str, Callable[[Options], Outcome]] = {
    "one_stream": one_stream.measure,
    "formats": formats.measure,
    "relay": relayed,
    "hibari": hibari.measure,
    "threads_vs_processes": lanes.measure,
    "sustained": sustained.measure,
    "overload": overload.measure,
    "piper": piper.measure,
    "vits": vits.measure,
    "fleet": fleet.measure,
}

QUICK = Options(rounds=2, seconds=2.0, is_quick=True)
QUICK_SCENARIOS = ("one_stream", "formats", "hibari", "overload", "piper")
"""What `--quick` measures unless told otherwise: in a minute and a half, every instrument has been used."""


def main() -> int:
    """Measure what is named, all by default."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"what to measure, all by default: {', '.join(SCENARIOS)}"
    )
    parser.add_argument("--rounds", type=int, default=Options.rounds, help="how often what takes turns is repeated")
    parser.add_argument("--seconds", type=float, default=Options.seconds, help="length of a load")
    parser.add_argument("--quick", action="store_true", help="see that everything runs; the figures mean little")
    parser.add_argument("--check", action="store_true", help="fail if a figure exceeds its limit")
    parser.add_argument("--keep", action="store_true", help="write tests/bench/results/<device>, which is kept in git")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - SCENARIOS.keys():
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    options = QUICK if arguments.quick else Options(arguments.rounds, arguments.seconds)
    where = device.find("cpu").name
    print(f"{where}, {device.cores()} cores, commit {record.commit()}")
    outcomes: dict[str, Outcome] = {}
    for name in arguments.names or (QUICK_SCENARIOS if arguments.quick else SCENARIOS):
        began = time.monotonic()
        outcomes[name] = SCENARIOS[name](options)
        outcomes[name].raw["took_s"] = round(time.monotonic() - began, 1)
        outcomes[name].print()
        path = record.write(outcomes, where, keep=arguments.keep)
    missed = [str(check) for outcome in outcomes.values() for check in outcome.checks if not check.is_met]
    print(f"\n{path.relative_to(ROOT)}\n{len(missed)} limits missed", *missed, sep="\n")
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
