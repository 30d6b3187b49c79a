import asyncio
import re
import time
import tracemalloc
from random import Random

import pytest

from gateway.auth import Key
from gateway.errors import ApiError
from gateway.quotas import Quotas, duration

ANN, BEN = Key("ann"), Key("ben")


class Clock:
    """The time, as the test sets it; it begins with a minute of the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(time, "time", lambda: 60.0 * 30_000_000 + self.now_s)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


async def refusal(quotas: Quotas, key: Key, chars: int) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await quotas.admit(key, chars)
    return caught.value


def test_requests_over_the_limit_are_refused_with_the_limit_its_owner_and_when_to_come_back():
    async def scenario():
        quotas = Quotas(requests=2)
        assert (await quotas.admit(ANN, 9)).headers["x-ratelimit-remaining-requests"] == "1"
        last = await quotas.admit(ANN, 9)
        assert last.headers == {
            "x-ratelimit-limit-requests": "2",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": last.headers["x-ratelimit-reset-requests"],
        }
        error = await refusal(quotas, ANN, 9)
        assert (error.form.status, error.form.type, error.form.code) == (429, "requests", "rate_limit_exceeded")
        assert "2 requests a minute for the key 'ann'" in error.message
        answer = error.response().headers
        assert 1 <= int(answer["retry-after"]) <= 60
        assert int(answer["retry-after-ms"]) <= 1000 * int(answer["retry-after"]) <= 60_000
        assert answer["x-ratelimit-remaining-requests"] == "0"
        # Another key has its own.
        await quotas.admit(BEN, 9)

    asyncio.run(scenario())


def test_what_is_refused_takes_nothing(clock):
    async def scenario():
        quotas = Quotas(requests=2, characters=100, streams=3)
        await quotas.admit(ANN, 60)
        error = await refusal(quotas, ANN, 41)
        assert error.form.type == "tokens"
        assert "100 characters a minute for the key 'ann': the text has 41, 40 are left" in error.message
        assert error.headers["x-ratelimit-remaining-tokens"] == "40"
        assert error.headers["x-ratelimit-remaining-requests"] == "1"
        await quotas.admit(ANN, 40)
        # Neither did the request that was one too many take a stream's place: two are taken.
        assert (await refusal(quotas, ANN, 0)).form.type == "requests"
        roomy = Key("ann", requests=0, characters=0)
        await quotas.admit(roomy, 0)
        assert "3 streams at once" in (await refusal(quotas, roomy, 0)).message

    asyncio.run(scenario())


def test_a_text_longer_than_a_minute_allows_is_refused_for_good():
    async def scenario():
        quotas = Quotas(requests=1, characters=100)
        error = await refusal(quotas, ANN, 101)
        assert (error.form.status, error.param, error.retry_after_s) == (400, "input", None)
        assert "101 characters" in error.message
        assert "100 characters a minute" in error.message
        await quotas.admit(ANN, 100)

    asyncio.run(scenario())


def seconds(written: str) -> float:
    """Read a duration of OpenAI's."""
    match = re.fullmatch(r"(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:(\d+)ms)?", written)
    return 60 * int(match[1] or 0) + float(match[2] or 0) + int(match[3] or 0) / 1000


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("limits", [{"requests": 1}, {"requests": 7}, {"characters": 40}, {"characters": 10**8}])
def test_a_client_that_comes_back_when_told_is_let_in_and_not_a_moment_before(clock, limits, seed):
    random = Random(seed)
    most = limits.get("characters", 1)

    async def scenario():
        quotas = Quotas(**limits)
        refused = 0
        for _ in range(40):
            clock.now_s += random.expovariate(1 / 5)
            chars = random.randint(1, most)
            try:
                headers = (await quotas.admit(ANN, chars)).headers
            except ApiError as error:
                refused += 1
                told_s = clock.now_s + error.retry_after_s
                if error.retry_after_s > 0.01:
                    clock.now_s = told_s - 0.01
                    await refusal(quotas, ANN, chars)
                clock.now_s = told_s
                headers = (await quotas.admit(ANN, chars)).headers
        assert refused > 2
        clock.now_s += seconds(headers[f"x-ratelimit-reset-{'requests' if 'requests' in limits else 'tokens'}"])
        await quotas.admit(ANN, most)

    asyncio.run(scenario())


def test_characters_of_the_minute_before_count_by_the_part_that_is_not_over(clock):
    async def scenario():
        quotas = Quotas(characters=100)
        headers = (await quotas.admit(ANN, 60)).headers
        assert headers["x-ratelimit-reset-tokens"] == "1m59.001s"  # One character of 60 is forgotten each second.
        clock.now_s = 30
        # Room for 50 is there when 51 of the 60 are not yet forgotten, as fractions count for nothing.
        assert (await refusal(quotas, ANN, 50)).retry_after_s == pytest.approx(39, abs=0.002)
        clock.now_s = 75
        assert (await quotas.admit(ANN, 20)).headers["x-ratelimit-remaining-tokens"] == "35"
        assert (await refusal(quotas, ANN, 36)).retry_after_s == pytest.approx(0, abs=0.002)
        clock.now_s = 120
        assert (await quotas.admit(ANN, 0)).headers["x-ratelimit-remaining-tokens"] == "80"

    asyncio.run(scenario())


def test_a_limit_costs_no_more_memory_for_being_high():
    async def scenario():
        quotas = Quotas(characters=10**8)
        tracemalloc.start()
        for _ in range(100):
            await quotas.admit(ANN, 10**6)
        kept_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept_bytes < 100_000

    asyncio.run(scenario())


def test_a_place_is_given_back_once_however_often_it_is_released():
    async def scenario():
        quotas = Quotas(streams=2)
        first, _ = await quotas.admit(ANN, 1), await quotas.admit(ANN, 1)
        error = await refusal(quotas, ANN, 1)
        assert "2 streams at once for the key 'ann'" in error.message
        assert error.response().headers["retry-after"] == "1"
        await quotas.admit(BEN, 1)
        for _ in range(3):
            first.release()
        await quotas.admit(ANN, 1)
        await refusal(quotas, ANN, 1)

    asyncio.run(scenario())


def test_requests_that_come_at_once_share_what_is_left_exactly(clock):
    async def scenario():
        quotas = Quotas(requests=20, characters=100, streams=12)
        # After this the storage tidies up in a thread, and whoever counts meanwhile has to wait.
        (await quotas.admit(ANN, 0)).release()
        await asyncio.sleep(0)
        results = await asyncio.gather(*(quotas.admit(ANN, 10) for _ in range(50)), return_exceptions=True)
        assert sum(not isinstance(result, ApiError) for result in results) == 10
        for result in results:
            if not isinstance(result, ApiError):
                result.release()
        left = await quotas.admit(Key("ann", requests=20, characters=0), 10)
        assert left.headers["x-ratelimit-remaining-requests"] == "8"

    asyncio.run(scenario())


def test_who_gives_up_while_waiting_holds_no_place():
    async def scenario():
        quotas = Quotas(requests=1000, streams=5)
        for turns in range(5):
            waiting = [asyncio.create_task(quotas.admit(ANN, 1)) for _ in range(5)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                if not isinstance(result, BaseException):
                    result.release()
        await asyncio.gather(*(quotas.admit(ANN, 1) for _ in range(5)))

    asyncio.run(scenario())


def test_a_keys_own_limits_come_before_the_servers_and_zero_is_none():
    async def scenario():
        quotas = Quotas(requests=1, characters=10, streams=1)
        generous = Key("cat", requests=3, characters=0, streams=0)
        for _ in range(3):
            admission = await quotas.admit(generous, 1000)
        assert "x-ratelimit-limit-tokens" not in admission.headers
        assert "3 requests a minute for the key 'cat'" in (await refusal(quotas, generous, 1)).message

    asyncio.run(scenario())


def test_without_keys_all_callers_share_one_quota():
    async def scenario():
        quotas = Quotas(requests=1)
        await quotas.admit(Key(), 1)
        assert "1 requests a minute that all callers share" in (await refusal(quotas, Key(), 1)).message

    asyncio.run(scenario())


def test_without_limits_everything_passes_and_nothing_is_told():
    async def scenario():
        quotas = Quotas()
        for _ in range(100):
            assert (await quotas.admit(ANN, 10**6)).headers == {}

    asyncio.run(scenario())


def test_more_text_of_a_turn_counts_as_characters_alone(clock):
    async def scenario():
        quotas = Quotas(requests=2, characters=100, streams=1)
        turn = await quotas.admit(ANN, 0)
        await turn.add(70)
        assert turn.headers["x-ratelimit-remaining-tokens"] == "30"
        assert turn.headers["x-ratelimit-remaining-requests"] == "1"
        with pytest.raises(ApiError, match="the text has 31, 30 are left"):
            await turn.add(31)
        with pytest.raises(ApiError, match="can never pass"):
            await turn.add(101)
        await turn.add(30)
        turn.release()
        await quotas.admit(ANN, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0ms"),
        (0.0121, "13ms"),
        (0.35, "350ms"),
        (1.5, "1.5s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (361.25, "6m1.25s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds, written):
    assert duration(seconds) == written
