"""Four times more requests than can be spoken: those let in must not notice, the others must be told at once."""

from __future__ import annotations

import time
from collections import Counter

from tests.bench import engine, servers
from tests.bench.capacity import best, search
from tests.bench.listener import Answer, percentile, summary
from tests.bench.load import Load, Plan, run
from tests.bench.outcome import Check, Curve, Options, Outcome, Row
from tests.bench.texts import SENTENCES
from tests.bench.usage import processes, rss_mib
from tests.stack import HIBARI, Stack
from worker import device

TIMES, SECONDS = 4.0, 60.0
TTFA_LIMIT, REFUSAL_LIMIT_S, MEMORY_LIMIT = 2.0, 0.25, 1.1
SETTLED = 1 / 3
"""Share of the overload after which memory has to stay as it is."""

GUESS = 0.7
"""Where the search begins, in shares of what the engine alone makes on all cores."""


def measure(options: Options) -> Outcome:
    """Find the capacity, then exceed it."""
    found = Outcome(f"hibari over HTTP at {TIMES:g} times its capacity, open loop")
    speed = engine.in_threads(engine.hibari, device.cores(), SENTENCES, options.seconds / 3).audio_per_s
    with servers.hibari() as stack:
        port = stack.gateway.port
        heard = run(Plan(port, HIBARI, SENTENCES, 2.0, talkers=2))
        mean_s = sum(answer.audio_s for answer in heard) / len(heard)
        guess = GUESS * speed / mean_s
        tried = search(lambda rate: run(Plan(port, HIBARI, SENTENCES, options.seconds, rate)), guess)
        rows: dict[str, Row] = {
            f"{each.level:.1f} requests/s": {**summary(each.answers), "carried": str(each.is_carried)} for each in tried
        }
        points = [(each.level, float(rows[f"{each.level:.1f} requests/s"]["ttfa_p95_ms"])) for each in tried]
        found.curves.append(Curve("rate", "hibari, search for the capacity", points))
        rate = best(tried).level
        at_capacity = run(Plan(port, HIBARI, SENTENCES, 2 * options.seconds, rate, seed=1))
        rows[f"capacity: {rate:.1f} requests/s"] = summary(at_capacity)
        seconds = 6.0 if options.is_quick else SECONDS
        plan = Plan(port, HIBARI, SENTENCES, seconds, TIMES * rate, seed=2)
        overload, memory = exceed(stack, plan)
    rows[f"overload: {TIMES * rate:.0f} requests/s"] = summary(overload)
    found.tables["open loop, by rate"] = rows
    found.tables["memory during the overload, MiB"] = memory
    refused = sum(answer.status == 503 for answer in overload) / len(overload)
    found.raw = {
        "capacity_requests_per_s": rate,
        "engine_audio_per_s": speed,
        "audio_mean_s": mean_s,
        "refused_share": refused,
        "statuses": Counter(answer.status for answer in overload),
    }
    found.checks += checks(at_capacity, overload, memory)
    return found


def exceed(stack: Stack, plan: Plan) -> tuple[list[Answer], dict[str, Row]]:
    """Run the overload, and look at the memory at its start, when it has settled, and at its end."""
    worker, gateway = processes(stack)

    def look() -> Row:
        return {"worker": round(rss_mib(worker), 1), "gateway": round(rss_mib(gateway), 1)}

    memory = {"at the start": look()}
    with Load(plan) as load:
        time.sleep(SETTLED * plan.seconds)
        memory["after a third"] = look()
        time.sleep((1 - SETTLED) * plan.seconds)
        memory["at the end"] = look()
        return load.answers(), memory


def checks(at_capacity: list[Answer], overload: list[Answer], memory: dict[str, Row]) -> list[Check]:
    calm, hard = summary(at_capacity), summary(overload)
    refused = [answer for answer in overload if answer.status == 503]
    refusal_s = percentile([answer.answered_s - answer.due_s for answer in refused], 0.95)
    settled, end = memory["after a third"], memory["at the end"]
    return [
        Check(
            "first audio of the admitted, p95 / p95 at capacity", hard["ttfa_p95_ms"] / calm["ttfa_p95_ms"], TTFA_LIMIT
        ),
        Check("admitted whose listener ran dry", hard["dry_streams"], 0),
        Check("requests that were neither spoken nor refused", hard["failed"], 0),
        Check("refusals without Retry-After", sum(not answer.retry_after for answer in refused), 0),
        Check("time to refusal, p95, s", refusal_s, REFUSAL_LIMIT_S),
        *(
            Check(
                f"memory of the {who} at the end / after a third", float(end[who]) / float(settled[who]), MEMORY_LIMIT
            )
            for who in ("worker", "gateway")
        ),
    ]
