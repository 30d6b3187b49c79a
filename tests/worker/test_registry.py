from pathlib import Path

import pytest

from worker.engines.base import HubModel
from worker.engines.hibari import HibariEngine
from worker.engines.registry import Registry
from worker.engines.tone import ToneEngine
from worker.errors import ModelNotFound


def test_engines_for_tests_are_left_out_unless_named():
    assert list(Registry.installed().engines) == ["hibari"]
    assert set(Registry.installed(["tone"]).models()) == {"sonorant/tone", "sonorant/tone-22k"}


def test_an_engine_that_is_not_installed_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"nosuch.*hibari, tone"):
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


def test_a_model_that_nobody_serves_is_refused_with_what_there_is():
    with pytest.raises(ModelNotFound, match=r"no/such.*maureesewilliams/hibari"):
        Registry([HibariEngine]).engine_of("no/such")


def test_a_hub_model_gets_an_engine_or_a_reason():
    registry = Registry([HibariEngine])
    assert registry.resolve(HubModel("maureesewilliams/hibari")) == ("hibari", "")
    engine, reason = registry.resolve(HubModel("org/name", library="nemo"))
    assert (engine, "nemo" in reason) == ("", True)


@pytest.fixture
def broken_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[sonorant.engines]\nbroken = package_that_is_not_there:Engine\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("broken_package")
def test_an_engine_whose_library_is_missing_costs_only_itself():
    assert list(Registry.installed().engines) == ["hibari"]
    with pytest.raises(ValueError, match=r"broken.*package_that_is_not_there"):
        Registry.installed(["broken"])
