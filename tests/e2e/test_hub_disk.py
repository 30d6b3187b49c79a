"""What models leave on disk: within the budget, whoever shares it, whatever broke off."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_hub_models import LARGE, add, begin, hub, load, said, standing
from tests.hub import Hub
from tests.stack import PATIENCE_S, TONE, Worker, eventually

__all__ = ["begin", "hub"]  # Fixtures.


def on_disk(hub: Hub) -> int:
    """Bytes of all files that were downloaded."""
    return sum(path.stat().st_size for path in hub.cache.glob("hub/*/blobs/*"))


def unload(stack, name: str) -> None:
    assert httpx.post(f"{stack.url}/api/models/{name}/unload", timeout=PATIENCE_S).status_code == 200


def test_an_earlier_revision_leaves_when_the_next_one_has_come(hub, begin):
    stack = begin(SONORANT_DISK_BUDGET="14MB")
    for _ in range(3):
        add(hub, "org/first", 6_000_000)
        load(stack, "org/first")
        unload(stack, "org/first")
    assert on_disk(hub) < 7_000_000


def test_downloads_at_the_same_time_share_the_budget(hub, begin):
    add(hub, "org/a", 8_000_000)
    add(hub, "org/b", 8_000_000)
    hub.knobs(hold={"weights.bin": 1})
    stack = begin(SONORANT_DISK_BUDGET="10MB")
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(stack.speak, model=f"org/{name}", input="one") for name in "ab"]
        eventually(lambda: any(answer.done() for answer in answers), "one is refused while the other comes")
        hub.mend()
        assert sorted(answer.result().status_code for answer in answers) == [200, 507]
    assert on_disk(hub) < 10_000_000


def test_a_model_and_its_parts_share_the_budget(hub, begin):
    add(hub, "org/first", 8_000_000, parts=["org/codec"])
    hub.add("org/codec", {"codec.bin": os.urandom(8_000_000)})
    stack = begin(SONORANT_DISK_BUDGET="10MB")
    assert said(stack.speak(model="org/first", input="one"))[:2] == (507, "disk_full")
    # What has come of it is counted, and makes room for others.
    add(hub, "org/second", 9_000_000)
    assert stack.speak(model="org/second", input="one").status_code == 200
    assert on_disk(hub) < 10_000_000


def test_nobody_has_to_leave_for_a_model_that_does_not_fit_even_so(hub, begin):
    add(hub, "org/small", 2_000_000)
    add(hub, "org/huge", 12_000_000)
    stack = begin(SONORANT_DISK_BUDGET="10MB")
    load(stack, "org/small")
    unload(stack, "org/small")
    assert said(stack.speak(model="org/huge", input="one"))[:2] == (507, "disk_full")
    assert standing(stack, "org/small")["state"] == "cached"
    assert on_disk(hub) == pytest.approx(2_000_000, abs=10_000)


def test_a_part_that_two_models_share_stays_for_as_long_as_one_needs_it(hub, begin):
    hub.add("org/codec", {"codec.bin": os.urandom(6_000_000)})
    for name in ("a", "b", "c"):
        add(hub, f"org/{name}", 1_000_000, parts=["org/codec"])
    add(hub, "org/big", 9_500_000)
    stack = begin(SONORANT_DISK_BUDGET="10MB")
    for name in ("a", "b", "c"):
        load(stack, f"org/{name}")
        unload(stack, f"org/{name}")
    assert on_disk(hub) == pytest.approx(9_000_000, abs=10_000)  # The codec counts once: nobody had to leave.
    load(stack, "org/big")
    assert on_disk(hub) == pytest.approx(9_500_000, abs=10_000)


def test_files_of_other_programs_are_used_and_never_deleted(hub, begin):
    add(hub, "org/first", 6_000_000)
    add(hub, "org/second", 6_000_000)
    elsewhere = (
        "from huggingface_hub import hf_hub_download\n"
        "hf_hub_download('org/first', 'big.onnx')\nhf_hub_download('org/first', 'config.json')\n"
    )
    subprocess.run([sys.executable, "-c", elsewhere], env={**os.environ, **hub.environment}, check=True, timeout=60)
    stack = begin(SONORANT_DISK_BUDGET="10MB")
    load(stack, "org/first")
    unload(stack, "org/first")
    load(stack, "org/second")
    left = {path.name for path in hub.cache.glob("hub/models--org--first/snapshots/*/*")}
    assert left == {"big.onnx", "config.json"}


def test_a_download_that_was_killed_is_counted_and_can_be_finished(hub, begin):
    add(hub, "org/first", LARGE)
    hub.knobs(hold={"weights.bin": 15_000_000})
    stack = begin(SONORANT_DISK_BUDGET="35MB")
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(stack.speak, model="org/first", input="one")
        eventually(lambda: standing(stack, "org/first").get("downloaded_bytes", 0) > 0, "it has begun")
        stack.worker.end(signal.SIGKILL)
        assert asking.result().status_code == 503
    hub.mend()
    again = stack.worker.again()
    try:
        eventually(again.is_ready, "the worker is back")
        eventually(stack.gateway.up, "the gateway knows")
        assert standing(stack, "org/first")["state"] == "absent"
        assert stack.speak(model="org/first", input="one").status_code == 200
    finally:
        again.end()


def test_workers_that_share_a_cache_leave_each_others_models_alone(hub, begin):
    add(hub, "org/a", 6_000_000)
    add(hub, "org/b", 6_000_000)
    stack = begin(SONORANT_DISK_BUDGET="10MB")
    load(stack, "org/a")
    other = Worker(stack.worker.folder, "w1", **stack.worker.settings)
    try:
        eventually(other.is_ready, "the other worker is there")
        with other.client() as client:
            with pytest.raises(Exception, match="SONORANT_DISK_BUDGET"):
                client.synthesize("one", model="org/b")
            unload(stack, "org/a")
            eventually(lambda: _speaks(client, "org/b"), "now there is room")
    finally:
        other.end()


def _speaks(client, model: str) -> bool:
    try:
        with client.synthesize("one", model=model) as speech:
            return bool(list(speech))
    except Exception:
        return False


def test_a_part_of_a_model_in_the_cache_is_not_the_model(hub, begin):
    add(hub, "org/first")
    stack = begin()
    folder = hub.cache / "hub" / "models--org--first"
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40) / "config.json").write_text(json.dumps({"model_type": "tone"}))
    hub.end()
    assert said(stack.speak(model="org/first", input="one"))[:2] == (503, "hub_unavailable")


def test_a_whole_model_in_the_cache_serves_without_the_hub(hub, begin):
    add(hub, "org/first")
    stack = begin()
    snapshot = hub.cache / "hub" / "models--org--first" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    for name in ("config.json", "weights.bin"):
        (snapshot / name).write_bytes((hub.root / "org" / "first" / name).read_bytes())
    hub.end()
    assert stack.speak(model="org/first", input="one").status_code == 200


def test_slow_downloads_keep_no_other_model_from_loading_and_the_worker_from_ending(hub, begin):
    add(hub, "org/here")
    for number in range(10):
        add(hub, f"slow/m{number}", 1_000_000)
    stack = begin(SONORANT_GRACE_S="0.1")
    load(stack, "org/here")
    unload(stack, "org/here")
    hub.knobs(hold={"weights.bin": 1})
    with ThreadPoolExecutor(10) as threads:
        for number in range(10):
            threads.submit(stack.speak, model=f"slow/m{number}", input="one")
        eventually(lambda: _downloading(stack) >= 8, "they are under way")
        assert stack.speak(model="org/here", input="one").status_code == 200
        assert stack.worker.end() == 0


def _downloading(stack) -> int:
    listed = httpx.get(f"{stack.url}/api/models", timeout=PATIENCE_S).json()
    return sum(model["workers"]["w0"]["state"] == "downloading" for model in [*listed["models"], *listed["local"]])


def test_models_that_are_loaded_at_start_are_loaded_once_whoever_asks_meanwhile(hub, start):
    for name in ("org/a", "org/b"):
        add(hub, name, orders=f"<touch={name[4:]}><hold=go>")
    settings = {"SONORANT_ENGINES": "tone", "SONORANT_PRELOAD": "org/a,org/b,sonorant/tone", **hub.environment}
    stack = start(worker_settings=settings, expect_ready=False, **hub.environment)
    eventually((stack.signals / "a").exists, "the first is being loaded")
    eventually(lambda: stack.gateway.health()["workers"][0]["state"] == "starting", "the gateway sees the worker")
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(stack.speak, model="org/b", input="one")
        eventually(lambda: standing(stack, "org/b")["state"] == "loading", "somebody asks for the second")
        (stack.signals / "go").touch()
        assert asking.result().status_code == 200
    eventually(lambda: standing(stack, TONE)["state"] == "ready", "all are there")
    assert stack.worker.output.count("model ready") == 3


def test_an_excluded_model_is_listed_as_what_it_is(hub, begin):
    add(hub, "evil/first")
    stack = begin(SONORANT_DENY_MODELS="evil/*")
    (model,) = httpx.get(f"{stack.url}/api/models", timeout=PATIENCE_S).json()["models"]
    assert (model["servable"], model["reason"]) == (False, "excluded by the operator of this server")
    assert not list(Path(hub.cache).glob("hub/*"))
