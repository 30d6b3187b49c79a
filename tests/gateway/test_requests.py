import asyncio

import pytest
from starlette.requests import Request

from gateway.errors import ClientGone
from gateway.requests import until_gone


def request_with(*messages: str) -> Request:
    queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    for message in messages:
        queue.put_nowait({"type": message})
    return Request({"type": "http", "headers": []}, queue.get)


async def result() -> str:
    return "done"


def test_work_that_ends_while_the_client_is_there_gives_its_result():
    async def scenario():
        return await until_gone(request_with(), result())

    assert asyncio.run(scenario()) == "done"


def test_a_client_that_goes_ends_the_work():
    ended = []

    async def endless():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def scenario():
        await until_gone(request_with("http.request", "http.disconnect"), endless())

    with pytest.raises(ClientGone):
        asyncio.run(scenario())
    assert ended == [True]


def test_a_client_that_goes_at_the_moment_the_work_ends_is_noticed():
    """The message comes once: lost here, the speech that follows would be made for nobody."""

    async def scenario():
        await until_gone(request_with("http.disconnect"), result())

    with pytest.raises(ClientGone):
        asyncio.run(scenario())


def test_a_message_that_comes_after_the_work_is_left_for_the_next_one():
    async def scenario():
        queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        request = Request({"type": "http", "headers": []}, queue.get)
        assert await until_gone(request, result()) == "done"
        queue.put_nowait({"type": "http.disconnect"})
        await until_gone(request, asyncio.Event().wait())

    with pytest.raises(ClientGone):
        asyncio.run(scenario())
