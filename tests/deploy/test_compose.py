"""The compose file, and what it mounts."""

from __future__ import annotations

import json
from typing import Any

import compose_spec
import pytest
import yaml

from tests.deploy import settings
from tests.stack import ROOT

FOLDER = ROOT / "deploy" / "compose"
OURS = {"gateway": "gateway", "worker-cpu": "worker", "worker-gpu-0": "worker", "worker-gpu-1": "worker"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file, its anchors resolved."""
    return dict(yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(compose["services"])


def test_it_is_as_the_compose_specification_wants_it(compose: dict[str, Any]) -> None:
    assert compose_spec.PyOptions().from_yaml(json.dumps(compose))
    wrong = {**compose, "services": {"gateway": {"image": "a", "helthcheck": {}}}}
    with pytest.raises(ValueError, match="helthcheck"):
        compose_spec.PyOptions().from_yaml(json.dumps(wrong))


def test_variables_are_settings_of_the_process(services: dict[str, dict[str, Any]]) -> None:
    for name, side in OURS.items():
        assert settings.unknown(side, set(services[name]["environment"])) == set()
        settings.check(side, services[name]["environment"])


def test_networks_and_volumes_are_there(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    used: set[str] = set()
    for service in services.values():
        assert set(service["networks"]) <= compose["networks"].keys()
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).is_dir(), source
                assert mount.endswith(":ro")
            else:
                used.add(source)
    assert used == compose["volumes"].keys()


def test_containers_can_do_little(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1"
        if side := OURS.get(name):
            mounted = {mount.split(":")[1] for mount in service["volumes"]} | set(service["tmpfs"])
            assert {"/tmp", *settings.volumes(side)} <= mounted
        else:
            assert ":latest" not in service["image"]
            assert ":" in service["image"]


def test_containers_get_the_time_to_drain(services: dict[str, dict[str, Any]]) -> None:
    for name, side in OURS.items():
        grace_s = settings.SETTINGS[side].model_fields["grace_s"].default
        assert compose_spec.parse_duration(services[name]["stop_grace_period"]) >= grace_s + 5


def test_the_gateway_and_prometheus_find_every_worker(services: dict[str, dict[str, Any]]) -> None:
    workers = [service for name, service in services.items() if OURS.get(name) == "worker"]
    (alias,) = {alias for each in workers for alias in each["networks"]["grpc"]["aliases"]}
    port = settings.image("worker")["SONORANT_LISTEN"].rpartition(":")[2]
    assert services["gateway"]["environment"]["SONORANT_WORKERS"] == f"dns:///{alias}:{port}"
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    jobs = {job["job_name"]: job["dns_sd_configs"][0] for job in config["scrape_configs"]}
    metrics = int(settings.image("worker")["SONORANT_METRICS_LISTEN"].rpartition(":")[2])
    assert jobs["worker"] == {"names": [alias], "type": "A", "port": metrics}
    assert jobs["gateway"]["port"] == int(settings.image("gateway")["SONORANT_PORT"])
    for name in ("gateway", "prometheus"):
        assert "grpc" in services[name]["networks"]


def test_workers_of_gpus_have_one_each_and_a_cache_of_their_own(services: dict[str, dict[str, Any]]) -> None:
    workers = [service for name, service in services.items() if name.startswith("worker-gpu")]
    devices = [each["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for each in workers]
    assert devices == [["0"], ["1"]]
    assert len({each["volumes"][0] for each in workers}) == len(workers)
    assert len({each["environment"]["SONORANT_WORKER_ID"] for each in workers}) == len(workers)


def test_grafana_finds_prometheus_and_the_dashboards(services: dict[str, dict[str, Any]]) -> None:
    folder = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text(encoding="utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "dashboards/sonorant.yaml").read_text(encoding="utf-8"))["providers"]
    targets = [mount.split(":")[1] for mount in services["grafana"]["volumes"]]
    assert provider["options"]["path"] in targets
