import re
import subprocess
import sys

import pytest

from gateway.settings import Settings as GatewaySettings
from tests.stack import ROOT, clean_environment
from worker.settings import Settings as WorkerSettings


@pytest.mark.parametrize(
    ("module", "name", "value", "words"),
    [
        ("gateway", "SONORANT_PORT", "http", ["integer"]),
        ("gateway", "SONORANT_PORT", "70000", ["65535"]),
        ("gateway", "SONORANT_DEFAULT_FORMAT", "midi", ["wav", "pcm"]),
        ("gateway", "SONORANT_WORKERS", ",", ["at least 1"]),
        ("gateway", "SONORANT_WORKERS", "gpu1", ["HOST:PORT"]),
        ("gateway", "SONORANT_WORKERS", "http://gpu1:50051", ["HOST:PORT"]),
        ("gateway", "SONORANT_WORKERS", "a:1,a:1", ["twice"]),
        ("worker", "SONORANT_WORKER_ID", "工人", ["pattern"]),
        ("gateway", "SONORANT_LOG_LEVEL", "loud", ["debug", "info"]),
        ("worker", "SONORANT_DEVICE", "gpu", ["auto, cpu or cuda:N"]),
        ("gateway", "SONORANT_CORS_ORIGINS", "example", ["https://HOST"]),
        ("worker", "SONORANT_DEVICE", "cuda:99", ["cuda:99", "cpu"]),
        ("worker", "SONORANT_CAPACITY", "0", ["greater than or equal to 1"]),
        ("worker", "SONORANT_ENGINES", "hibari,nosuch", ["nosuch", "hibari", "tone"]),
        ("worker", "SONORANT_PRELOAD", "nosuch", ["nosuch", "maureesewilliams/hibari"]),
        ("worker", "SONORANT_MEMORY_BUDGET", "much", ["much", "8GiB"]),
        ("worker", "SONORANT_DISK_BUDGET", "5 pigs", ["5 pigs", "80%"]),
        ("worker", "SONORANT_LISTEN", "nowhere:at:all", ["nowhere:at:all"]),
    ],
)
def test_a_wrong_value_is_refused_at_start_with_its_name_the_value_and_what_is_accepted(module, name, value, words):
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, env=clean_environment(**{name: value}), capture_output=True, text=True
    )
    assert done.returncode == 2
    for word in (name, value, *words):
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_the_readme_lists_every_setting_with_its_default():
    table = dict(
        re.findall(r"^\| `(SONORANT_\w+)` \| ([^|]*) \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    )
    for settings in (GatewaySettings, WorkerSettings):
        for name, field in settings.model_fields.items():
            variable = f"SONORANT_{name.upper()}"
            assert variable in table
            default = field.default
            if isinstance(default, tuple):
                default = ",".join(default)
            if isinstance(default, str | int | float) and default != "":
                assert f"`{default}`" in table[variable], variable
