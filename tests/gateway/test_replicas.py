from collections import Counter
from dataclasses import dataclass, field

from gateway.fleet.replicas import CROWDED_S, IDLE_S, REST_S, Replicas
from gateway.fleet.routing import Distance
from protos.tts.v1 import models_pb2

MB = 1_000_000


@dataclass
class Seen:
    """A worker as the decision sees it."""

    address: str
    distances: dict[str, Distance] = field(default_factory=dict)
    models: list[models_pb2.Model] = field(default_factory=list)
    calls: Counter = field(default_factory=Counter)
    is_busy: bool = False
    is_up: bool = True
    is_starting: bool = False
    is_full: bool = False
    crowd: int = 0
    num_utterances: int = 0
    room_bytes: int = 100 * MB
    engines: tuple[str, ...] = ("tone",)

    @property
    def status(self) -> models_pb2.WatchStatusResponse:
        return models_pb2.WatchStatusResponse(engines=self.engines, memory_budget_bytes=200 * MB)

    def distance(self, model: str) -> Distance:
        return self.distances.get(model, Distance.REMOTE)


def speaking(address: str = "a", *, is_busy: bool = True) -> Seen:
    """A worker that is ready with the model, and asked for it."""
    held = models_pb2.Model(name="m", engine="tone", memory_bytes=50 * MB, active=3)
    return Seen(address, {"m": Distance.READY}, [held], Counter(m=3), is_busy=is_busy)


def wanted(*links: Seen, after_s: float = CROWDED_S) -> dict[str, str]:
    replicas = Replicas()
    assert replicas.wanted(links, 0.0) == {}
    return {model: link.address for model, link in replicas.wanted(links, after_s).items()}


def test_a_model_that_one_worker_cannot_keep_up_with_goes_to_another():
    assert wanted(speaking(), Seen("b")) == {"m": "b"}


def test_a_moment_is_not_enough():
    assert wanted(speaking(), Seen("b"), after_s=CROWDED_S / 2) == {}


def test_one_that_is_kept_up_with_stays_alone():
    assert wanted(speaking(is_busy=False), Seen("b")) == {}
    assert wanted(speaking("a"), speaking("c", is_busy=False), Seen("b")) == {}


def test_it_goes_nowhere_while_it_is_on_its_way():
    assert wanted(speaking(), Seen("b", {"m": Distance.ON_ITS_WAY}), Seen("c")) == {}


def test_it_goes_where_its_engine_is_and_where_there_is_room():
    assert wanted(speaking(), Seen("b", engines=("vits",)), Seen("c", room_bytes=10 * MB), Seen("d")) == {"m": "d"}


def test_it_goes_to_none_that_is_busy_starting_down_or_has_failed_with_it():
    others = [
        Seen("b", is_busy=True),
        Seen("c", is_starting=True),
        Seen("d", is_up=False),
        Seen("e", {"m": Distance.FAILED}),
    ]
    assert wanted(speaking(), *others) == {}


def test_what_nobody_has_asked_for_lately_makes_room():
    held = models_pb2.Model(name="old", engine="tone", memory_bytes=60 * MB)
    crowded, full = speaking(), Seen("b", {"old": Distance.READY}, [held], Counter(old=1), room_bytes=0)
    replicas = Replicas()
    replicas.wanted([crowded, full], 0.0)
    full.calls.clear()
    assert replicas.wanted([crowded, full], CROWDED_S) == {}
    assert replicas.wanted([crowded, full], CROWDED_S + max(REST_S, IDLE_S)) == {"m": full}


def test_after_a_try_it_rests():
    links = [speaking(), Seen("b")]
    replicas = Replicas()
    replicas.wanted(links, 0.0)
    assert replicas.wanted(links, CROWDED_S)
    assert not replicas.wanted(links, CROWDED_S + 1)
    assert replicas.wanted(links, CROWDED_S + REST_S)
