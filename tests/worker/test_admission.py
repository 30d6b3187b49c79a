"""Who may begin, who waits and who is refused, by what models were measured to need."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from worker.admission import Admission, Cost
from worker.errors import Overloaded
from worker.rows import Row, Work

RATE = 1000
CHARS_PER_S = 10


def admission(lanes: int = 1, capacity: int = 100, queue_s: float = 1.0, **costs: float) -> Admission:
    """Bounds, with models of whom it is known how much work a second of audio is."""
    made = Admission(lanes=lanes, capacity=capacity, queue_s=queue_s, lead_s=10.0)
    for model, work_s in costs.items():
        made.cost(model).note_work(100 * work_s, 100.0)
        made.cost(model).note_end(100 * CHARS_PER_S, 100.0)
    return made


def first_of(judge: Admission, rows: list[Row]) -> Row | None:
    """Who begins next, if anybody may."""
    return next(iter(judge.next(rows, now())), None)


@pytest.fixture
def rows() -> Iterator[object]:
    """Makes rows: of 10 s of audio, unless it is said otherwise."""
    loop = asyncio.new_event_loop()

    def make(
        model: str = "half", audio_s: float = 10.0, begun: bool = False, made_s: float = 0.0, **more: object
    ) -> Row:
        async def build() -> Row:
            return Row(
                Work(None, RATE, model, round(audio_s * CHARS_PER_S), **more),
                lambda _: None,
                lambda _: None,
                lambda: None,
            )

        row = loop.run_until_complete(build())
        row.is_begun = begun
        if made_s:
            row.num_made = round(made_s * RATE)
            row.playback.add(row.num_made, time.monotonic(), is_reader_waiting=True)
            row._num_taken = row.num_made
        return row

    yield make
    loop.close()


def now() -> float:
    return time.monotonic()


def test_costs_follow_what_is_measured_and_forget_what_is_long_ago():
    cost = Cost()
    assert (cost.is_known, cost.work_per_audio) == (False, 0.0)
    for _ in range(100):
        cost.note_work(1.0, 2.0)
    assert cost.work_per_audio == pytest.approx(0.5)
    for _ in range(300):
        cost.note_work(2.0, 1.0)
    assert cost.work_per_audio == pytest.approx(2.0, rel=0.01)
    cost.note_work(100.0, 0.0)  # Work that has made no sound yet counts too.
    assert cost.work_per_audio > 2.1


def test_rows_begin_as_long_as_no_listener_would_run_dry(rows):
    judge = admission(half=0.5)
    first, second = rows(), rows()
    assert first_of(judge, [first, second]) is first
    first.is_begun = True
    # Each needs half a core at real time, and a tenth of the core is nobody's.
    assert first_of(judge, [first, second]) is None
    assert first_of(admission(lanes=2, half=0.5), [first, second]) is second


def test_a_row_that_is_well_ahead_leaves_room_for_another(rows):
    # 2 s are left to make, and the listener has 8 s: a tenth of a core is enough.
    ahead, new = rows(begun=True, made_s=8.0), rows(model="most")
    assert first_of(admission(half=0.5, most=0.79), [ahead, new]) is new
    assert first_of(admission(half=0.5, most=0.85), [ahead, new]) is None


def test_a_row_whose_reader_is_far_behind_leaves_all_the_room(rows):
    resting, new = rows(audio_s=1000.0, begun=True, made_s=11.0), rows()
    resting._num_taken = 0
    judge = admission(half=0.5)
    assert judge.rests(resting)
    assert first_of(judge, [resting, new]) is new


def test_a_model_slower_than_real_time_speaks_to_one_after_the_other(rows):
    judge = admission(slow=3.0)
    first, second = rows("slow"), rows("slow")
    assert first_of(judge, [first, second]) is first
    first.is_begun = True
    assert first_of(judge, [first, second]) is None


def test_a_model_of_unknown_cost_begins_with_a_few(rows):
    judge = admission()
    every = [rows("new") for _ in range(10)]
    while row := first_of(judge, every):
        row.is_begun = True
    assert sum(row.is_begun for row in every) == 4
    judge.cost("new").note_work(0.01, 1.0)
    assert first_of(judge, every) is not None


def test_no_model_speaks_to_more_than_it_has_slots(rows):
    judge = admission(cheap=0.001, other=0.001)
    every = [rows("cheap", slots=2) for _ in range(4)]
    while row := first_of(judge, every):
        row.is_begun = True
    assert sum(row.is_begun for row in every) == 2
    assert first_of(judge, [*every, other := rows("other")]) is other


def test_those_who_ask_are_served_in_turn_however_much_each_wants(rows):
    judge = admission(cheap=0.001)
    flood = [rows("cheap", tenant="flood") for _ in range(5)]
    guest = [rows("cheap", tenant="guest") for _ in range(2)]
    order = []
    while row := first_of(judge, [*flood, *guest]):
        row.is_begun = True
        order.append(row.work.tenant)
    assert order == ["flood", "guest", "flood", "guest", "flood", "flood", "flood"]


def test_what_nobody_listens_to_begins_after_those_who_listen(rows):
    judge = admission(cheap=0.001)
    file, live = rows("cheap", is_live=False), rows("cheap")
    assert first_of(judge, [file, live]) is live


def test_the_wait_is_the_work_of_those_who_wait_in_vain(rows):
    judge = admission(half=0.5)
    assert judge.wait_s([], now()) == 0
    silent = rows(begun=True)
    assert judge.wait_s([silent], now()) == 0
    # 10 s of audio are 5 s of work, for nine tenths of a core.
    assert judge.wait_s([silent, rows()], now()) == pytest.approx(5 / 0.9)
    assert judge.wait_s([silent, rows(), rows(audio_s=20.0)], now()) == pytest.approx(15 / 0.9)
    # Who fits in beside those who speak does not wait; unless the model has no place left.
    assert admission(lanes=4, half=0.5).wait_s([silent, rows(), rows()], now()) == 0
    assert admission(lanes=4, half=0.5).wait_s([silent, rows(slots=1)], now()) == pytest.approx(5 / 3.6)


def test_the_wait_is_the_first_audio_of_all_who_have_heard_nothing(rows):
    judge = admission(cheap=0.001)
    judge.cost("cheap").note_first(0.1)
    every = [rows("cheap", begun=number < 3) for number in range(9)]
    assert judge.wait_s(every, now()) == pytest.approx(9 * 0.1 / 0.9)
    # What has been done of it is not to be waited for.
    every[0].work_s = 0.075
    assert judge.wait_s(every, now()) == pytest.approx(8.25 * 0.1 / 0.9)
    every[0].work_s = 1.0
    assert judge.wait_s(every, now()) == pytest.approx(8 * 0.1 / 0.9)


def test_the_wait_is_longer_the_more_of_the_device_listeners_need(rows):
    judge = admission(half=0.5, cheap=0.0)
    judge.cost("cheap").note_first(0.1)
    listening = rows(audio_s=1000.0, begun=True, made_s=0.001)
    assert judge.wait_s([listening, rows("cheap")], now()) == pytest.approx(0.1 / 0.4, rel=0.01)
    # A tenth of the device is always thought to be left.
    crowd = [rows(audio_s=1000.0, begun=True, made_s=0.001) for _ in range(5)]
    assert judge.wait_s([*crowd, rows("cheap", begun=True)], now()) == pytest.approx(0.1 / 0.09, rel=0.01)


def test_the_work_until_the_first_audio_is_a_mean_that_follows():
    cost = Cost()
    cost.note_first(0.5)
    assert cost.first_s == 0.5
    for _ in range(100):
        cost.note_first(0.1)
    assert cost.first_s == pytest.approx(0.1, abs=0.001)


def test_whoever_would_wait_too_long_is_refused_with_the_time_to_come_back(rows):
    judge = admission(queue_s=4.0, half=0.5)
    here = [rows(begun=True)]
    assert judge.admit(rows(), here, now()) is None
    here += [rows() for _ in range(3)]
    # The work of those who wait, and of the one who has to end before another may begin.
    with pytest.raises(Overloaded, match=r"22\.2 s .* too long") as refused:
        judge.admit(rows(), here, now())
    assert refused.value.retry_after_s == pytest.approx(20 / 0.9)


def test_a_burst_is_let_in_but_a_queue_that_stays_is_kept_short(rows):
    judge = admission(queue_s=8.0, half=0.5)
    one = [rows(begun=True)]
    two, many = [*one, rows()], [*one, *(rows() for _ in range(4))]
    come = now()
    # 11.1 s are over the limit of 8, and under the 24 of a burst; 27.8 s are over both.
    assert judge.admit(rows(), two, come) is None
    with pytest.raises(Overloaded):
        judge.admit(rows(), many, come)
    assert judge.admit(rows(), two, come + 2) is None
    with pytest.raises(Overloaded):
        judge.admit(rows(), two, come + 2.1)
    # That the wait is under the limit again, 5.6 s, does not make a burst of what comes next; that there is none does.
    assert judge.admit(rows(), one, come + 3) is None
    with pytest.raises(Overloaded):
        judge.admit(rows(), two, come + 3)
    assert judge.admit(rows(), [], come + 4) is None
    assert judge.admit(rows(), two, come + 4) is None


def test_with_a_model_that_takes_long_to_be_heard_everybody_is_more_patient(rows):
    judge = admission(queue_s=1.0, half=0.5)
    here = [rows(begun=True), rows()]
    with pytest.raises(Overloaded):
        judge.admit(rows(), here, now())
    judge.cost("half").note_first(2.5)
    assert judge.admit(rows(), here, now()) is None


def test_a_turn_that_has_been_heard_in_part_goes_on(rows):
    judge = admission(queue_s=1.0, half=0.5)
    here = [rows(begun=True), rows(), rows(tenant="flood"), rows(tenant="flood"), rows(tenant="flood")]
    going_on = rows(goes_on=True)
    assert judge.admit(going_on, here, now()) is None
    assert first_of(judge, [*here, going_on]) is going_on
    # Nor does it have to go for others.
    with pytest.raises(Overloaded):
        judge.admit(rows(), [rows(begun=True), *(rows(tenant="flood", goes_on=True) for _ in range(5))], now())


def test_files_that_wait_keep_nobody_from_listening(rows):
    judge = admission(queue_s=1.0, cheap=0.001, half=0.5)
    files = [rows(begun=True, made_s=9.0), *(rows(is_live=False) for _ in range(9))]
    assert judge.admit(rows("cheap"), files, now()) is None


def test_a_file_that_has_waited_for_long_is_as_urgent_as_a_listener(rows):
    judge = admission(cheap=0.001)
    file, live = rows("cheap", is_live=False), rows("cheap")
    assert first_of(judge, [file, live]) is live
    assert judge.next([file, live], now() + 11) == [file]


def test_a_model_that_cannot_keep_up_leaves_half_of_the_device_to_others(rows):
    judge = admission(slow=3.0, cheap=0.4)
    slow = rows("slow", begun=True, made_s=1.0)
    assert not judge.can_keep_up(slow)
    assert first_of(judge, [slow, rows("slow")]) is None
    assert first_of(judge, [slow, cheap := rows("cheap")]) is cheap
    # Somebody else's utterance in it has to end first, and a caller is told so at once.
    with pytest.raises(Overloaded):
        judge.admit(rows("slow"), [slow], now())


def test_a_reader_who_has_stopped_keeps_no_slow_model_from_others(rows):
    judge = admission(slow=3.0)
    paused = rows("slow", audio_s=1000.0, begun=True, made_s=11.0)
    paused._num_taken = 0
    assert first_of(judge, [paused, new := rows("slow")]) is new


def test_a_thread_is_given_what_it_can_take_on(rows):
    judge = admission(cheap=0.001)
    plain, staged = rows("cheap"), rows("cheap", is_staged=True)
    assert judge.next([plain, staged], now(), lambda row: row.work.is_staged) == [staged]


def test_several_begin_at_once_and_no_more_than_there_is_room_for(rows):
    judge = admission(tenth=0.1)
    every = [rows("tenth", tenant=tenant) for tenant in ("a", "a", "a", "b", *"cdefghij")]
    begun = judge.next(every, now(), most=32)
    assert len(begun) == 9
    assert [row.work.tenant for row in begun[:3]] == ["a", "b", "c"]
    assert judge.next(every, now(), most=2) == begun[:2]


def test_what_nobody_listens_to_may_wait_longer(rows):
    judge = admission(queue_s=4.0, half=0.5)
    here = [rows(begun=True), rows(), rows()]
    assert judge.admit(rows(is_live=False), here, now()) is None
    with pytest.raises(Overloaded):
        judge.admit(rows(), here, now())


def test_over_capacity_is_refused_whatever_it_costs(rows):
    judge = admission(capacity=2, cheap=0.001)
    with pytest.raises(Overloaded, match="all 2 places") as refused:
        judge.admit(rows("cheap"), [rows("cheap", begun=True), rows("cheap")], now())
    assert refused.value.retry_after_s >= 1


def test_when_all_is_full_the_last_of_whoever_has_most_waiting_goes_instead(rows):
    judge = admission(capacity=4, cheap=0.001)
    flood = [rows("cheap", tenant="flood", begun=number == 0) for number in range(4)]
    assert judge.admit(rows("cheap", tenant="guest"), flood, now()) is flood[-1]
    # But not for another of its own.
    with pytest.raises(Overloaded):
        judge.admit(rows("cheap", tenant="flood"), flood, now())
    # Nor for one who has about as many.
    mixed = [*flood[:3], rows("cheap", tenant="guest")]
    with pytest.raises(Overloaded):
        judge.admit(rows("cheap", tenant="guest"), mixed, now())
