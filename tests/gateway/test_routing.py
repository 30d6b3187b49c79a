from dataclasses import dataclass

from gateway.fleet.routing import Distance, choose


@dataclass
class Seen:
    address: str
    num_utterances: int = 0
    is_up: bool = True
    stands: Distance = Distance.READY
    is_full: bool = False
    crowd: int = 0
    room_bytes: int = 0

    def distance(self, model: str) -> Distance:
        return self.stands


def test_the_least_loaded_worker_is_taken():
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


def test_a_full_worker_comes_last_among_its_like():
    assert choose([Seen("a", is_full=True), Seen("b", 9)], "m").address == "b"


def test_a_model_that_nobody_has_goes_where_most_room_is():
    cold = Distance.LOCAL
    workers = [Seen("a", stands=cold, room_bytes=5_000), Seen("b", 9, stands=cold, room_bytes=9_000)]
    assert choose(workers, "m").address == "b"


def test_where_all_have_about_the_same_room_it_goes_where_fewest_models_are():
    cold = Distance.REMOTE
    workers = [Seen("a", stands=cold, crowd=2, room_bytes=9_001), Seen("b", 9, stands=cold, crowd=1, room_bytes=9_000)]
    assert choose(workers, "m").address == "b"


def test_workers_that_are_down_or_have_failed_the_call_are_skipped():
    workers = [Seen("a", is_up=False), Seen("c"), Seen("d", 5)]
    assert choose(workers, "m", tried=["c"]).address == "d"
    assert choose(workers, "m", tried=["c", "d"]) is None
