"""The OpenAPI document is true: it names every route and error, and thousands of made-up requests find it so."""

import json
import re
import subprocess
import sys

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.app import ROUTES
from gateway.errors import TABLE
from gateway.openapi import WHEN
from tests.stack import PATIENCE_S, ROOT, TONE

LEAST_CASES = 2000

NOT_OF_THE_API = {
    *("/", "/assets", "/static", "/docs", "/docs/assets", "/openapi.json"),
    *("/v1/models/", "/v1/audio/speech/stream"),
}
"""Pages, the document itself, another spelling of a path, and the WebSocket, for which OpenAPI has no words."""


@pytest.fixture(scope="module")
def document(stack):
    return httpx.get(f"{stack.url}/openapi.json").json()


def test_the_document_is_valid(document):
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1.")


def test_every_route_is_described_with_its_methods(document):
    served: dict[str, set[str]] = {}
    for route in ROUTES:
        if route.path not in NOT_OF_THE_API:
            methods = route.methods or {
                each for each in ("GET", "POST", "DELETE") if hasattr(route.endpoint, each.lower())
            }
            served.setdefault(without_names(route.path), set()).update(each.lower() for each in methods - {"HEAD"})
    assert {without_names(path): set(operations) for path, operations in document["paths"].items()} == served


def without_names(path: str) -> str:
    return re.sub(r"\{.*?\}", "{}", path)


def test_every_error_is_described_where_it_can_happen(document):
    assert set(WHEN) == set(TABLE)
    described = set()
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    described |= response["content"]["application/json"]["examples"].keys()
    # Paths that are not there, methods that a path has not, keys, which this server asks nobody for, and the WebSocket.
    everywhere = {"METHOD_NOT_ALLOWED", "UNAUTHENTICATED", "UPGRADE_REQUIRED"}
    assert described == {reason.lower() for reason in set(TABLE) - everywhere}


def test_the_options_of_the_models_here_are_fields(document):
    schema = document["paths"]["/v1/audio/speech"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["word_ms"]["minimum"] == 10
    assert TONE in schema["properties"]["word_ms"]["title"]


def test_every_example_is_accepted(document, stack):
    body = document["paths"]["/v1/audio/speech"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        assert stack.speak(**example["value"]).status_code == 200


def test_with_keys_the_document_says_what_needs_one(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"alice {'0' * 64}\n")
    stack = start(SONORANT_API_KEYS_FILE=str(keys))
    paths = httpx.get(f"{stack.url}/openapi.json").json()["paths"]
    assert paths["/v1/audio/speech"]["post"]["security"] == [{"key": []}]
    assert "401" in paths["/v1/audio/speech"]["post"]["responses"]
    assert "security" not in paths["/v1/audio/voices"]["get"]
    assert "security" not in paths["/healthz"]["get"]


RECORDINGS = """
import schemathesis
from hypothesis import strategies as st

from gateway.audio.wav import wav_header

pcm = st.binary(min_size=2, max_size=5000)
whole = st.builds(lambda hz, pcm: wav_header(hz, len(pcm) // 2) + pcm, st.integers(8000, 192_000), pcm)
schemathesis.openapi.media_type("audio/wav", whole | st.binary())
"""


@pytest.mark.more
@pytest.mark.timeout(900)
def test_thousands_of_requests_get_nothing_but_what_is_documented(start, tmp_path):
    stack = start(worker_settings={"SONORANT_ENGINES": "tone"}, SONORANT_MAX_INPUT_CHARS="300")
    # What a recording is, no JSON Schema can say: the files that are made up here are refused, rightly.
    (tmp_path / "schemathesis.toml").write_text(
        "".join(
            "[[operations]]\n"
            f'include-operation-id = "{operation}"\n'
            'checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "413"]\n'
            for operation in ("createVoice", "encode")
        )
    )
    (tmp_path / "recordings.py").write_text(RECORDINGS)
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{stack.url}/openapi.json"]
    how = ["--checks=all", "--max-examples=250", "--seed=1", "--no-shrink", "--continue-on-failure"]
    # With a database of examples Hypothesis minimises passing ones too, and sometimes trips over itself there.
    how.append("--generation-database=none")
    out = ["--report=json", f"--report-json-path={report}"]
    run = subprocess.run(
        [*command, *how, *out],
        cwd=tmp_path,
        env={
            "PATH": "",
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": str(tmp_path / "recordings.py"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (cases,) = re.findall(r"([\d,]+) generated", run.stdout)
    assert int(cases.replace(",", "")) >= LEAST_CASES, run.stdout
    assert json.loads(report.read_text())
    assert stack.gateway.popen.poll() is None
    assert stack.worker.popen.poll() is None
    assert "Traceback" not in stack.gateway.output
    assert httpx.get(f"{stack.url}/readyz", timeout=PATIENCE_S).status_code == 200
