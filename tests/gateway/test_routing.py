from dataclasses import dataclass

from gateway.fleet.routing import Distance, choose


@dataclass
class Seen:
    address: str
    outstanding: int = 0
    is_up: bool = True
    stands: Distance = Distance.READY

    def distance(self, model: str) -> Distance:
        return self.stands


def test_the_worker_with_the_fewest_calls_is_taken():
    assert choose([Seen("a", 2), Seen("b", 1), Seen("c", 3)], "m").address == "b"


def test_a_tie_goes_to_the_first():
    assert choose([Seen("a", 1), Seen("b", 1)], "m").address == "a"


def test_a_worker_that_is_nearer_to_speaking_goes_before_an_idle_one():
    order = [Distance.FAILED, Distance.REMOTE, Distance.LOCAL, Distance.ON_ITS_WAY, Distance.READY]
    workers = [Seen(distance.name, n, stands=distance) for n, distance in enumerate(order)]
    tried = []
    while worker := choose(workers, "m", tried):
        tried.append(worker.address)
    assert tried == [distance.name for distance in reversed(order)]


def test_workers_that_are_down_or_have_failed_the_call_are_skipped():
    workers = [Seen("a", is_up=False), Seen("c"), Seen("d", 5)]
    assert choose(workers, "m", tried=["c"]).address == "d"
    assert choose(workers, "m", tried=["c", "d"]) is None
