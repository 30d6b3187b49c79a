"""How much each key may ask for: requests and characters a minute, streams at once. It knows nothing of HTTP.

Requests are counted one by one: a minute is any 60 seconds, not one of the clock. Of characters there may be millions,
so only two sums are kept: that of the minute of the clock, and that of the one before it, which counts by the part of
it that is less than 60 seconds ago. Each gateway counts for itself, and in memory. Where no keys are asked for, all
callers share one quota.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from gateway.auth import Key
from gateway.errors import ApiError

STREAM_RETRY_S = 1.0
"""When to come back for a stream's place; nobody knows when one ends."""

MARGIN_S = 0.001
"""Added to the time at which there is just enough room, so that there is enough."""


class Admission:
    """Leave to speak once.

    Attributes:
        headers: What to tell the client of its limits, as OpenAI does; a character of the text is a token.
    """

    def __init__(self, quotas: Quotas, key: Key, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._quotas = quotas
        self._key = key
        self._is_released = False

    async def add(self, chars: int) -> None:
        """Count more text of the same turn.

        Args:
            chars: Its characters.

        Raises:
            ApiError: CHARACTERS_LIMITED, or INVALID_REQUEST if so many can never pass; nothing is counted then.
        """
        self.headers = await self._quotas.count(self._key, requests=0, chars=chars)

    def release(self) -> None:
        """Give the stream's place back; any number of times."""
        if not self._is_released:
            self._is_released = True
            self._quotas.end_stream(self._key)


class Quotas:
    """Counts what each key has asked for.

    Args:
        requests: Most requests a minute of a key that has no limit of its own; 0 for any number. So are the others.
        characters: Most characters a minute.
        streams: Most streams at once.
    """

    def __init__(self, requests: int = 0, characters: int = 0, streams: int = 0) -> None:
        self._default = Key(requests=requests, characters=characters, streams=streams)
        self._streams: Counter[str] = Counter()
        self._storage = MemoryStorage()
        self._limiters: dict[str, RateLimiter] = {
            "requests": MovingWindowRateLimiter(self._storage),
            "tokens": SlidingWindowCounterRateLimiter(self._storage),
        }
        self._turn = asyncio.Lock()

    async def admit(self, key: Key, chars: int) -> Admission:
        """Count a request, and take a stream's place for it.

        Args:
            key: Who asks.
            chars: Characters of the text.

        Returns:
            What must be released when the stream has ended.

        Raises:
            ApiError: RATE_LIMITED or CHARACTERS_LIMITED, or INVALID_REQUEST for a text that can never pass; nothing is
                counted then.
        """
        headers = await self.count(key, requests=1, chars=chars, streams=1)
        return Admission(self, key, headers)

    async def count(self, key: Key, *, requests: int, chars: int, streams: int = 0) -> dict[str, str]:
        """Count all of it or, if one limit forbids, nothing; return the headers.

        Args:
            key: Who asks.
            requests: How many.
            chars: Characters of the text.
            streams: How many places to take, for `end_stream` to give back.

        Raises:
            ApiError: As for `admit`.
        """
        max_requests, max_chars, max_streams = self._limits_of(key)
        whose = f"for the key {key.name!r}" if key.name else "that all callers share"
        if max_chars and chars > max_chars:
            raise ApiError(
                "INVALID_REQUEST",
                f"the text has {chars} characters, over the limit of {max_chars} characters a minute {whose}, "
                "so it can never pass whole; send it in parts",
                param="input",
            )
        costs: list[tuple[RateLimitItem, int]] = []
        if max_requests:
            costs.append((RateLimitItemPerMinute(max_requests, namespace="requests"), requests))
        if max_chars:
            costs.append((RateLimitItemPerMinute(max_chars, namespace="tokens"), chars))
        # One at a time: between the look and the count, another request might take what is left.
        async with self._turn:
            refusals: list[ApiError] = []
            if max_streams and self._streams[key.name] + streams > max_streams:
                message = f"over the limit of {max_streams} streams at once {whose}; try again when one has ended"
                refusals.append(ApiError("RATE_LIMITED", message, retry_after_s=STREAM_RETRY_S))
            for rate, cost in costs:
                if not await self._limiters[rate.namespace].test(rate, key.name, cost=cost):
                    refusals.append(await self._refusal(rate, key, cost, whose))
            if refusals:
                refusal = max(refusals, key=lambda error: error.retry_after_s or 0.0)
                refusal.headers.update(await self._headers(costs, key))
                raise refusal
            for rate, cost in costs:
                await self._limiters[rate.namespace].hit(rate, key.name, cost=cost)
            headers = await self._headers(costs, key)
            # Last, and nothing is awaited from here to the caller: a place that is taken always has an owner.
            if streams:
                self._streams[key.name] += streams
            return headers

    def end_stream(self, key: Key) -> None:
        """Give one stream's place back."""
        self._streams[key.name] -= 1
        if not self._streams[key.name]:
            del self._streams[key.name]

    def _limits_of(self, key: Key) -> tuple[int, ...]:
        own = (key.requests, key.characters, key.streams)
        default = (self._default.requests, self._default.characters, self._default.streams)
        return tuple((mine if mine is not None else theirs) or 0 for mine, theirs in zip(own, default, strict=True))

    async def _refusal(self, rate: RateLimitItem, key: Key, cost: int, whose: str) -> ApiError:
        retry_after_s = await self._wait_s(rate, key, cost)
        again = f"try again in {math.ceil(retry_after_s)} s"
        if rate.namespace == "requests":
            message = f"over the limit of {rate.amount} requests a minute {whose}; {again}"
            return ApiError("RATE_LIMITED", message, retry_after_s=retry_after_s)
        left = await self._left(rate, key)
        message = f"over the limit of {rate.amount} characters a minute {whose}: the text has {cost}, {left} are left"
        return ApiError("CHARACTERS_LIMITED", f"{message}; {again}", retry_after_s=retry_after_s)

    async def _headers(self, costs: list[tuple[RateLimitItem, int]], key: Key) -> dict[str, str]:
        headers = {}
        for rate, _ in costs:
            headers[f"x-ratelimit-limit-{rate.namespace}"] = str(rate.amount)
            headers[f"x-ratelimit-remaining-{rate.namespace}"] = str(await self._left(rate, key))
            headers[f"x-ratelimit-reset-{rate.namespace}"] = duration(await self._wait_s(rate, key, rate.amount))
        return headers

    async def _left(self, rate: RateLimitItem, key: Key) -> int:
        return (await self._limiters[rate.namespace].get_window_stats(rate, key.name)).remaining

    async def _wait_s(self, rate: RateLimitItem, key: Key, cost: int) -> float:
        """Tell when there will be room for a cost if nothing else is counted until then."""
        counted, minute_s = rate.key_for(key.name), rate.get_expiry()
        if rate.namespace == "requests":
            # The newest stand first: once this one is over a minute old, there is room for the cost.
            blocking = self._storage.events.get(counted, [])[rate.amount - cost :][:1]
            wait_s = blocking[0].atime + minute_s - time.time() if blocking else 0.0
        else:
            previous, previous_left_s, current, current_left_s = await self._storage.get_sliding_window(
                counted, minute_s
            )
            # Fractions of what was counted are rounded down.
            room = rate.amount - cost + 1
            if current >= room:  # Then not before it is the minute before.
                wait_s = current_left_s - minute_s * room / current + MARGIN_S
            elif previous:
                wait_s = previous_left_s - minute_s * (room - current) / previous + MARGIN_S
            else:
                wait_s = 0.0
        return max(0.0, wait_s)


def duration(seconds: float) -> str:
    """Write a duration as OpenAI does, which is Go's way: `350ms`, `1.5s`, `1m0s`."""
    ms = math.ceil(1000 * seconds)
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest_ms = divmod(ms, 60_000)
    return f"{minutes}m{rest_ms / 1000:g}s" if minutes else f"{rest_ms / 1000:g}s"
