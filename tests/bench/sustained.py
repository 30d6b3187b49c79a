"""How many listen at once without a gap: talkers who hear each sentence out and ask for the next."""

from __future__ import annotations

from tests.bench import engine, servers
from tests.bench.capacity import best, search
from tests.bench.listener import summary
from tests.bench.load import Plan, run
from tests.bench.outcome import Curve, Options, Outcome
from tests.bench.texts import SENTENCES
from tests.stack import HIBARI
from worker import device

GUESS = 0.6
"""Where the search begins, in shares of what the engine alone makes on all cores."""


def measure(options: Options) -> Outcome:
    """Search for the most talkers of whom none is refused or hears a gap."""
    found = Outcome("hibari over HTTP, talkers who listen at real time")
    speed = engine.in_threads(engine.hibari, device.cores(), SENTENCES, options.seconds / 3).audio_per_s
    with servers.hibari() as stack:
        port = stack.gateway.port
        run(Plan(port, HIBARI, SENTENCES, 2.0, talkers=2))
        seconds = options.seconds if options.is_quick else 1.6 * options.seconds

        def listen(level: float):
            return run(Plan(port, HIBARI, SENTENCES, seconds, talkers=round(level), listens=True))

        tried = search(listen, round(GUESS * speed))
    found.tables["closed loop at real time, by talkers"] = {
        str(round(each.level)): {**summary(each.answers), "carried": str(each.is_carried)} for each in tried
    }
    streams = round(best(tried).level)
    found.raw = {"streams": streams, "engine_audio_per_s": speed}
    found.curves.append(Curve("listeners", "hibari", [(each.level, each.streams) for each in tried]))
    found.tables["streams sustained without a gap"] = {
        "gateway and worker": {"streams": streams, "of_engine_alone": round(streams / speed, 2)},
        "engine alone on all cores": {"streams": round(speed)},
    }
    return found
