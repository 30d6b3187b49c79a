"""The Kubernetes manifests, built by the real kustomize (kubectl's), checked by the schemas of their kinds."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.cert_manager import v1 as cert_manager
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

from tests.deploy import settings
from tests.stack import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
KUBECTL = Path(sys.executable).parent / "kubectl"
OVERLAYS = sorted(each.name for each in (FOLDER / "overlays").iterdir())
CUSTOM: dict[str, Any] = {
    "keda.sh": keda,
    "cert-manager.io": cert_manager,
    "monitoring.coreos.com": prometheus_operator,
}

MADE_BY_PEOPLE = {"sonorant-hub", "sonorant-worker-token", "sonorant-api-keys"}
"""Secrets that the manifests cannot have in them; deploy/README.md says how to make each."""

NAME = "app.kubernetes.io/name"

Built = list[dict[str, Any]]


@functools.cache
def build(overlay: str, *components: str) -> Built:
    """What `kubectl apply -k` would send."""
    folder = FOLDER / "overlays" / overlay
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # Such as words on fields that are deprecated.
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(params=OVERLAYS)
def built(request: pytest.FixtureRequest) -> Built:
    return build(request.param)


def of_kind(built: Built, *kinds: str) -> list[dict[str, Any]]:
    return [each for each in built if each["kind"] in kinds]


def named(built: Built, kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in of_kind(built, kind) if each["metadata"]["name"] == name]
    return found


def workloads(built: Built) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every workload, with its only container."""
    found = of_kind(built, "Deployment", "StatefulSet")
    assert len(found) == 2
    for each in found:
        (container,) = each["spec"]["template"]["spec"]["containers"]
        yield each, container


def test_every_object_is_one_of_its_kind(built: Built) -> None:
    for each in built:
        group = each["apiVersion"].partition("/")[0]
        if group in CUSTOM:
            check_custom(each)
        else:
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


def check_custom(each: dict[str, Any]) -> None:
    """Compare an object with what its operator's own resource definition knows, as a library has it in models."""
    model = getattr(CUSTOM[each["apiVersion"].partition("/")[0]], each["kind"])
    # The models drop what they do not know.
    assert model.model_validate(each).model_dump(by_alias=True, exclude_unset=True, mode="json") == each


def test_a_field_that_there_is_not_would_be_found() -> None:
    worker = named(build("gpu"), "StatefulSet", "sonorant-worker")
    wrong = {**worker, "spec": {**worker["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)
    scaled = named(build("production"), "ScaledObject", "sonorant-worker")
    for change in ({"minReplicas": 1}, {"triggers": [{"kind": "prometheus"}]}):
        with pytest.raises((AssertionError, ValueError)):
            check_custom({**scaled, "spec": {**scaled["spec"], **change}})


def test_all_is_in_one_namespace(built: Built) -> None:
    for each in built:
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == "sonorant"


def test_every_variable_is_a_setting_of_the_process_that_gets_it(built: Built) -> None:
    for workload, container in workloads(built):
        side = container["name"]
        assert workload["metadata"]["name"] == f"sonorant-{side}"
        names = {each["name"] for each in container.get("env", [])}
        for source in container["envFrom"]:
            names |= named(built, "ConfigMap", source["configMapRef"]["name"])["data"].keys()
        assert settings.unknown(side, names) == set()


def test_values_are_taken_by_the_process_that_gets_them(built: Built) -> None:
    for _, container in workloads(built):
        config = named(built, "ConfigMap", container["envFrom"][0]["configMapRef"]["name"])["data"]
        plain = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        settings.check(container["name"], {**config, **plain})


def test_what_is_referred_to_is_there(built: Built) -> None:
    made = MADE_BY_PEOPLE | {each["spec"]["secretName"] for each in of_kind(built, "Certificate")}
    accounts = {each["metadata"]["name"] for each in of_kind(built, "ServiceAccount")}
    claims = {each["metadata"]["name"] for each in of_kind(built, "PersistentVolumeClaim")}
    for workload, container in workloads(built):
        pod = workload["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] in accounts
        for each in container["env"]:
            secret = each.get("valueFrom", {}).get("secretKeyRef")
            assert not secret or secret["name"] in made
        volumes = {each["name"]: each for each in pod["volumes"]}
        for volume in volumes.values():
            assert volume.get("secret", {}).get("secretName", "sonorant-hub") in made
            claim = volume.get("persistentVolumeClaim")
            assert not claim or claim["claimName"] in claims
        templates = {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])}
        assert {each["name"] for each in container["volumeMounts"]} == volumes.keys() | templates
    for issued in of_kind(built, "Certificate"):
        named(built, "Issuer", issued["spec"]["issuerRef"]["name"])


def test_what_is_selected_is_there(built: Built) -> None:
    labels = {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each, _ in workloads(built)}
    for each in built:
        spec = each.get("spec", {})
        selectors = {
            "Service": lambda spec: spec["selector"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "PodMonitor": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
            "Deployment": lambda spec: spec["selector"]["matchLabels"],
            "StatefulSet": lambda spec: spec["selector"]["matchLabels"],
        }
        if select := selectors.get(each["kind"]):
            assert select(spec).items() <= labels[each["metadata"]["name"]].items()
        if target := spec.get("scaleTargetRef"):
            scaled = named(built, target["kind"], target["name"])
            assert "replicas" not in scaled["spec"], "two would set the replicas"
            assert scaled["apiVersion"] == target["apiVersion"]


def test_ports_are_those_that_the_processes_listen_at(built: Built) -> None:
    ports = {each["name"]: {p["name"]: p["containerPort"] for p in c["ports"]} for each, c in _containers(built)}
    gateway, worker = settings.image("gateway"), settings.image("worker")
    assert ports["gateway"] == {"http": int(gateway["SONORANT_PORT"])}
    assert ports["worker"] == {
        "grpc": int(worker["SONORANT_LISTEN"].rpartition(":")[2]),
        "metrics": int(worker["SONORANT_METRICS_LISTEN"].rpartition(":")[2]),
    }
    every = {number for side in ports.values() for number in side.values()}
    for service in of_kind(built, "Service"):
        side = service["metadata"]["name"].removeprefix("sonorant-")
        assert {each["targetPort"] for each in service["spec"]["ports"]} <= ports[side].keys()
    for monitor in of_kind(built, "PodMonitor"):
        side = monitor["metadata"]["name"].removeprefix("sonorant-")
        assert {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]} <= ports[side].keys()
    for policy in of_kind(built, "NetworkPolicy"):
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= every
    config = next(each for each in of_kind(built, "ConfigMap") if "SONORANT_WORKERS" in each["data"])
    host, _, port = config["data"]["SONORANT_WORKERS"].removeprefix("dns:///").partition(":")
    headless = named(built, "Service", host)
    assert headless["spec"]["clusterIP"] == "None"
    # A headless Service maps no ports: who resolves its name calls the pods themselves.
    assert int(port) == headless["spec"]["ports"][0]["port"] == ports["worker"]["grpc"]


def _containers(built: Built) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    return ((container, container) for _, container in workloads(built))


def test_probes_ask_for_services_that_a_worker_has(built: Built) -> None:
    from worker.server import SERVICES

    for _, container in workloads(built):
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[kind]
            if grpc := probe.get("grpc"):
                assert grpc["port"] in {each["containerPort"] for each in container["ports"]}
                assert grpc.get("service", "") in ("", *SERVICES)
            elif command := probe.get("exec"):
                assert command["command"] == ["python", "-m", "deploy.healthcheck", container["name"]]
            else:
                assert probe["httpGet"]["path"] in ("/healthz", "/readyz")


def test_with_tls_no_probe_speaks_without(built: Built) -> None:
    for _, container in workloads(built):
        if container["name"] == "worker" and any(e["name"] == "SONORANT_TLS_CERT" for e in container["env"]):
            assert not any("grpc" in container[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe"))


def test_pods_get_the_time_to_drain(built: Built) -> None:
    for workload, container in workloads(built):
        pod = workload["spec"]["template"]["spec"]
        config = named(built, "ConfigMap", container["envFrom"][0]["configMapRef"]["name"])["data"]
        pause_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod["terminationGracePeriodSeconds"] >= pause_s + float(config["SONORANT_GRACE_S"]) + 5
        # Services, and so the variables of the processes, are no settings.
        assert pod["enableServiceLinks"] is False


def test_pods_are_as_the_restricted_standard_wants_them(built: Built) -> None:
    (namespace,) = of_kind(built, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for workload, container in workloads(built):
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == settings.user(container["name"])
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        allowed = {"emptyDir", "persistentVolumeClaim", "secret", "configMap"}
        assert {key for volume in pod["volumes"] for key in volume} - {"name"} <= allowed
        # What the image writes to is writable.
        mounts = {each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")}
        assert {"/tmp", *settings.volumes(container["name"])} <= mounts


def test_only_gateways_reach_workers_and_only_monitoring_their_metrics(built: Built) -> None:
    policy = named(built, "NetworkPolicy", "sonorant-worker")["spec"]
    who = {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}
    assert who == {
        50051: [{"podSelector": {"matchLabels": {NAME: "sonorant-gateway"}}}],
        9090: [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    }
    for each in of_kind(built, "NetworkPolicy"):
        assert set(each["spec"]["policyTypes"]) == {"Ingress", "Egress"}


def test_images_are_named_by_the_overlay_and_never_latest(built: Built) -> None:
    for _, container in workloads(built):
        assert re.fullmatch(rf"registry\.example\.com/sonorant-{container['name']}:\d[\w.-]*", container["image"])


def test_a_gpu_is_asked_for_where_workers_compute_on_one() -> None:
    for overlay, device in (("cpu", "cpu"), ("gpu", "cuda:0"), ("production", "cuda:0")):
        built = build(overlay)
        (container,) = named(built, "StatefulSet", "sonorant-worker")["spec"]["template"]["spec"]["containers"]
        assert {"name": "SONORANT_DEVICE", "value": device} in container["env"]
        assert container["resources"]["limits"].get("nvidia.com/gpu") == (None if device == "cpu" else "1")


def test_demand_is_asked_of_metrics_that_workers_have() -> None:
    triggers = named(build("production"), "ScaledObject", "sonorant-worker")["spec"]["triggers"]
    queries = " ".join(each["metadata"]["query"] for each in triggers)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for metric in set(re.findall(r"sonorant_\w+", queries)):
        assert f"`{metric}`" in readme, metric
    # KEDA falls back only where a trigger counts an average.
    assert "AverageValue" in {each["metricType"] for each in triggers}


def test_components_fit_together(tmp_path: Path) -> None:
    everything = sorted((FOLDER / "components").iterdir())
    for base in ("cpu", "gpu"):
        kustomization = {
            "namespace": "sonorant",
            "resources": [_relative(FOLDER / "overlays" / base, tmp_path)],
            "components": [_relative(each, tmp_path) for each in everything],
        }
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        done = subprocess.run([KUBECTL, "kustomize", tmp_path], capture_output=True, text=True, check=True)
        built = list(yaml.safe_load_all(done.stdout))
        for check in (
            test_every_object_is_one_of_its_kind,
            test_what_is_referred_to_is_there,
            test_what_is_selected_is_there,
            test_every_variable_is_a_setting_of_the_process_that_gets_it,
            test_pods_are_as_the_restricted_standard_wants_them,
        ):
            check(built)
        (gateway,) = [c for _, c in workloads(built) if c["name"] == "gateway"]
        config = named(built, "ConfigMap", gateway["envFrom"][0]["configMapRef"]["name"])["data"]
        assert config["SONORANT_MAX_VOICES"] == "100"


def _relative(path: Path, start: Path) -> str:
    return os.path.relpath(path, start)


def test_the_secrets_that_people_make_are_told_of() -> None:
    readme = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    for name in MADE_BY_PEOPLE:
        assert f"create secret generic {name}" in readme
