import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import ROOT
from worker.engines.base import HubModel
from worker.engines.hibari import HibariEngine
from worker.engines.registry import Registry
from worker.engines.tone import ToneEngine
from worker.errors import UnsupportedModel


def test_engines_for_tests_are_left_out_unless_named():
    assert "tone" not in Registry.installed().engines
    assert set(Registry.installed(["tone"]).models()) == {"sonorant/tone", "sonorant/tone-22k"}


def test_an_engine_that_is_not_installed_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"nosuch.*hibari, .*tone"):
        Registry.installed(["nosuch"])


def test_two_engines_of_one_name_are_refused():
    class Other(ToneEngine):
        pass

    with pytest.raises(ValueError, match="'tone'"):
        Registry([ToneEngine, Other])


def test_two_engines_with_one_model_are_refused():
    class Other(ToneEngine):
        name = "other"

    with pytest.raises(ValueError, match="sonorant/tone"):
        Registry([ToneEngine, Other])


class Family(ToneEngine):
    name = "family"

    @classmethod
    def embedded(cls):
        return {}

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        return model.model_type == "family"

    @classmethod
    def refuse(cls, model: HubModel) -> str:
        return "too old" if "old" in model.tags else ""


class Lacking(Family):
    name = "lacking"
    requires = ("json", "a_module_that_nobody_has")
    extra = "special"


def reason(registry: Registry, model: HubModel) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        registry.resolve(model)
    return str(caught.value)


def test_a_model_of_the_hub_gets_the_engine_that_claims_it():
    registry = Registry([HibariEngine, Family])
    assert registry.resolve(HubModel("maureesewilliams/hibari")) is HibariEngine
    assert registry.resolve(HubModel("org/name", model_type="family", files=["model.safetensors"])) is Family


def test_a_model_that_nobody_serves_gets_the_reason():
    registry = Registry([HibariEngine, Family])
    assert reason(registry, HubModel("org/name", library="nemo")) == "no engine for library 'nemo'"
    assert "model type 'other'" in reason(registry, HubModel("org/name", model_type="other"))
    assert "not a model" in reason(registry, HubModel("org/name", model_type="family", files=["README.md"]))
    assert reason(registry, HubModel("org/name", model_type="family", tags=["old"])) == "too old"
    assert reason(Registry([Lacking]), HubModel("org/name", model_type="family")) == "needs the extra special"


@pytest.fixture
def broken_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[sonorant.engines]\nbroken = package_that_is_not_there:Engine\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("broken_package")
def test_an_engine_whose_library_is_missing_costs_only_itself():
    assert "hibari" in Registry.installed().engines
    assert "broken" not in Registry.installed().engines
    with pytest.raises(ValueError, match=r"broken.*package_that_is_not_there"):
        Registry.installed(["broken"])


def test_without_torch_every_engine_is_there_and_says_what_it_needs():
    program = """
import importlib.util, sys
lacking = {"torch", "transformers", "greenlet", "diffusers", "sentencepiece", "uroman", "langcodes", "loguru"}
class Lean:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in lacking:
            raise ModuleNotFoundError(name)
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in lacking else found(name, package)
sys.meta_path.insert(0, Lean())
from worker.engines.base import HubModel
from worker.engines.registry import Registry
from worker.errors import UnsupportedModel
registry = Registry.installed()
print(*sorted(registry.engines))
piper = HubModel("org/piper", library="piper", files=["a.onnx", "a.onnx.json"])
print(registry.resolve(piper).name)
try:
    registry.resolve(HubModel("org/v", "transformers", model_type="vits", files=["model.safetensors", "config.json"]))
except UnsupportedModel as refused:
    print(refused)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    engines, piper, refused = done.stdout.splitlines()
    assert set(engines.split()) == Registry.installed().engines.keys()
    assert (piper, refused) == ("piper", "needs the extra torch")
