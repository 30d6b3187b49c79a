"""The example of docs/engines.md, installed and asked as its readers would."""

import json
import re

import numpy as np
import pytest

from tests.hub import Hub
from tests.stack import ROOT

PAGE = (ROOT / "docs" / "engines.md").read_text("utf-8")
PLAIN, STAGED = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_example_is_short():
    assert len(PLAIN.splitlines()) < 60
    assert len(STAGED.splitlines()) < 40


@pytest.mark.parametrize(
    ("source", "stages"),
    [(PLAIN, ["step"]), (PLAIN.replace("return PluckModel", "return StagedPluckModel") + STAGED, ["pluck"])],
    ids=["plain", "staged"],
)
def test_the_example_engine_of_the_documentation_serves_a_model_of_the_hub(start, install, tmp_path, source, stages):
    (declared,) = re.findall(r'^pluck = "(.*)"$', PAGE, re.MULTILINE)
    (tmp_path / "pluck.py").write_text(source)
    hub = Hub(tmp_path)
    try:
        config = {"model_type": "pluck", "sample_rate_hz": 16_000, "pitches_hz": {"low": 110.0, "high": 220.0}}
        files = {"config.json": json.dumps(config).encode(), "strings.bin": b"\0" * 100}
        hub.add("org/guitar", files, info={"config": {"model_type": "pluck"}})
        environment = hub.environment
        stack = start(worker_settings={**install("pluck", declared), **environment}, **environment)
        answer = stack.speak(model="org/guitar", input="one two three", voice="high", seed=3, stream=False)
        assert (answer.status_code, answer.headers["x-sonorant-voice"]) == (200, "high")
        assert answer.headers["x-sonorant-sample-rate"] == "16000"
        samples = np.frombuffer(answer.content[44:], "<i2")
        assert len(samples) == 3 * 20 * round(16_000 / 220)
        assert np.abs(samples).max() > 3000
        assert stack.speak(model="org/guitar", input="...").json()["error"]["code"] == "unspeakable_text"
        with stack.worker.client() as client, client.synthesize("one two", model="org/guitar") as speech:
            assert list(speech)
            assert [stage.name for stage in speech.summary.stages] == stages
    finally:
        hub.end()
