"""Models that come and go for a long time, in too little room, while people listen."""

import json
import random
import threading

import httpx
import psutil
import pytest

from tests.checkpoints import vits
from tests.hub import Hub
from tests.stack import PATIENCE_S, eventually

MODELS = [f"org/voice-{letter}" for letter in "abcd"]
CYCLES = 100


@pytest.mark.more
@pytest.mark.timeout(900)
def test_a_hundred_loads_over_four_models_in_room_for_two(start, tmp_path):
    hub = Hub(tmp_path)
    for name in MODELS:
        vits.build(hub.root, model=name, ffn_dim=60_000)  # 24 MB of weights that cost little to compute.
    settings = {"SONORANT_ENGINES": "vits,tone", "SONORANT_PRELOAD": "", "SONORANT_MEMORY_BUDGET": "60MB"}
    patience = {"SONORANT_FIRST_AUDIO_TIMEOUT_S": "120"}
    stack = start(worker_settings={**settings, **patience, **hub.environment}, **patience, **hub.environment)
    process = psutil.Process(stack.worker.popen.pid)
    is_over = threading.Event()
    spoken: list[int] = []

    def listen(seed: int) -> None:
        choice = random.Random(seed)
        while not is_over.is_set():
            answer = stack.speak(model=choice.choice(MODELS), input="The kettle is on.", seed=1, stream=False)
            spoken.append(answer.status_code)

    listeners = [threading.Thread(target=listen, args=[seed]) for seed in range(2)]
    try:
        rss_after_ten = 0
        for cycle in range(CYCLES):
            name = MODELS[cycle % len(MODELS)]
            loaded = httpx.post(f"{stack.url}/api/models/{name}/load", timeout=300)
            events = [json.loads(line[6:]) for line in loaded.text.splitlines() if line.startswith("data: ")]
            assert (loaded.status_code, events[-1].get("stage")) == (200, "ready"), loaded.text
            unloaded = httpx.post(f"{stack.url}/api/models/{name}/unload", timeout=PATIENCE_S)
            assert unloaded.status_code in (200, 409), unloaded.text  # 409: somebody listens to it.
            if cycle == 0:
                for listener in listeners:
                    listener.start()
            if cycle == 9:
                rss_after_ten = process.memory_info().rss
    finally:
        is_over.set()
        for listener in listeners:
            listener.join()
        hub.end()
    eventually(stack.is_idle, "everybody has been served")
    assert len(spoken) > 10
    assert set(spoken) == {200}  # Nobody's model was taken away.
    assert process.memory_info().rss <= 1.1 * rss_after_ten
    assert stack.worker.output.count("model ready") >= CYCLES // 2
