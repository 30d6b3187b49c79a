import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gateway.fleet.discovery import Discovery, check
from tests.stack import PATIENCE_S


async def told(sources: Sequence[str], steps: Sequence[Callable[[], object]] = ()) -> list[Sequence[str]]:
    """What is told of these sources: at first, and after each step."""
    heard: asyncio.Queue[Sequence[str]] = asyncio.Queue()
    running = asyncio.create_task(Discovery(sources, heard.put_nowait).run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            found = [await heard.get()]
            for step in steps:
                step()
                found.append(await heard.get())
            return found
    finally:
        running.cancel()


def replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


async def first(sources: Sequence[str], wanted: int) -> Sequence[str]:
    """What is told of sources once there are that many addresses."""
    heard: asyncio.Queue[Sequence[str]] = asyncio.Queue()
    running = asyncio.create_task(Discovery(sources, heard.put_nowait).run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            while len(found := await heard.get()) < wanted:
                pass
            return found
    finally:
        running.cancel()


def test_addresses_that_are_given_are_told_as_they_are():
    assert asyncio.run(told(["gpu1:50051", "unix:/run/w", "[::1]:50051"])) == [
        ["gpu1:50051", "unix:/run/w", "[::1]:50051"]
    ]


def test_a_name_is_told_as_its_addresses():
    found = asyncio.run(first(["dns:///localhost:50051"], 1))
    assert "127.0.0.1:50051" in found or "[::1]:50051" in found
    assert len(set(found)) == len(found)


def test_a_name_that_nobody_knows_leaves_the_others_as_they_are():
    found = asyncio.run(first(["dns:///no-such-host.invalid:50051", "a:1"], 1))
    assert found == ["a:1"]


def test_a_file_is_read_again_when_it_has_changed(tmp_path):
    path = tmp_path / "workers"
    path.write_text("a:1\n# one of them is away\n\nb:2  # the large one\n")
    steps = [lambda: replace(path, "b:2\nc:3\n"), lambda: path.write_text("")]
    assert asyncio.run(told(["x:9", f"file://{path}"], [lambda: None, *steps])) == [
        ["x:9"],
        ["x:9", "a:1", "b:2"],
        ["x:9", "b:2", "c:3"],
        ["x:9"],
    ]


def test_what_is_no_address_in_a_file_is_passed_over(tmp_path):
    path = tmp_path / "workers"
    path.write_text("good:1\nnonsense\nhttp://bad:1\n")
    assert asyncio.run(told(["x:9", f"file://{path}"], [lambda: None]))[1] == ["x:9", "good:1"]


def test_a_file_that_is_gone_changes_nothing_and_one_that_comes_is_read(tmp_path):
    path = tmp_path / "workers"

    async def watch() -> list[Sequence[str]]:
        heard: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        running = asyncio.create_task(Discovery([f"file://{path}"], heard.put_nowait).run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                found = [await heard.get()]
                path.write_text("a:1\n")
                found.append(await heard.get())
                path.unlink()
                await asyncio.sleep(1.2)  # Two looks at nothing.
                replace(path, "b:2\n")
                found.append(await heard.get())
                return found
        finally:
            running.cancel()

    assert asyncio.run(watch()) == [[], ["a:1"], ["b:2"]]


def test_the_same_address_twice_is_one_worker(tmp_path):
    path = tmp_path / "workers"
    path.write_text("a:1\na:1\nb:2\n")
    assert asyncio.run(told(["a:1", f"file://{path}"], [lambda: None]))[1] == ["a:1", "b:2"]


@pytest.mark.parametrize(
    "source", ["", "gpu1", "gpu1:port", "dns://gpu1:1", "dns:///gpu1", "file://workers", "http://a:1"]
)
def test_what_says_of_no_worker_where_it_is_is_refused(source):
    with pytest.raises(ValueError, match="HOST:PORT"):
        check(source)
