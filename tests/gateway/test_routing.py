from dataclasses import dataclass, field

from gateway.fleet.routing import choose


@dataclass
class Seen:
    address: str
    outstanding: int = 0
    is_up: bool = True
    models: dict[str, bool] = field(default_factory=lambda: {"m": True})

    def has(self, model: str) -> bool:
        return model in self.models

    def is_ready(self, model: str) -> bool:
        return self.models.get(model, False)


def test_the_worker_with_the_fewest_calls_is_taken():
    assert choose([Seen("a", 2), Seen("b", 1), Seen("c", 3)], "m").address == "b"


def test_a_tie_goes_to_the_first():
    assert choose([Seen("a", 1), Seen("b", 1)], "m").address == "a"


def test_a_worker_that_has_the_model_in_memory_goes_before_an_idle_one_that_has_not():
    assert choose([Seen("a", 0, models={"m": False}), Seen("b", 9)], "m").address == "b"


def test_workers_that_are_down_or_lack_the_model_or_have_failed_are_skipped():
    workers = [Seen("a", is_up=False), Seen("b", models={}), Seen("c"), Seen("d", 5)]
    assert choose(workers, "m", tried=["c"]).address == "d"
    assert choose(workers, "m", tried=["c", "d"]) is None
