"""The stand-in of the hub answers the hub's own client as the hub does."""

import concurrent.futures
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

from tests.hub import MEMBER, STRANGER, Cut, Fail, Hub

WEIGHTS = bytes(range(256)) * 4 * 1024
MANY = bytes(range(256)) * 4 * 11 * 1024
"""More than the 10 MiB that the client writes at once, so that something is there to resume."""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    hub = Hub(tmp_path_factory.mktemp("hub"))
    files = {"config.json": b"{}", "model.safetensors": WEIGHTS, "voices/af.pt": b"af", "README.md": b"# Voice"}
    about = {"library_name": "kokoro", "tags": ["text-to-speech", "ja"], "trendingScore": 7, "likes": 1}
    about |= {"config": {"model_type": "vits"}, "safetensors": {"parameters": {"F32": 12}, "total": 12}}
    hub.add("org/voice", files, info=about)
    hub.add("org/other", {"config.json": b"{}"}, info={"trendingScore": 9})
    hub.add("org/image", {"config.json": b"{}"}, info={"pipeline_tag": "text-to-image"})
    hub.add("org/large", {"model.bin": MANY})
    hub.add("shy/gated", {"config.json": b"{}"}, gated="auto")
    hub.add("shy/private", {"config.json": b"{}"}, private=True)
    hub.add("shy/disabled", {"config.json": b"{}"}, disabled=True)
    hub.add("datasets/org/speakers", {"a/x.npy": b"x", "b/y.npy": b"y"})
    yield hub
    hub.end()


@pytest.fixture
def hub(served):
    served.mend()
    return served


@pytest.fixture
def download(hub, tmp_path):
    def download(repo, token=False, **options):
        return Path(snapshot_download(repo, endpoint=hub.url, cache_dir=tmp_path, token=token, **options))

    return download


def api(hub, token=False):
    return HfApi(endpoint=hub.url, token=token)


def ids(models):
    return [model.id for model in models]


def test_models_are_listed_by_task_and_trend(hub):
    listed = list(api(hub).list_models(pipeline_tag="text-to-speech", sort="trending_score"))
    assert ids(listed)[:2] == ["org/other", "org/voice"]
    assert {"org/image", "shy/private", "shy/disabled", "org/speakers"}.isdisjoint(ids(listed))
    assert listed[1].library_name == "kokoro"
    assert listed[1].trending_score == 7
    assert listed[1].siblings is None


def test_models_are_found_by_name_tag_and_author(hub):
    assert ids(api(hub).list_models(search="VOI")) == ["org/voice"]
    assert ids(api(hub).list_models(filter=["text-to-speech", "kokoro", "ja"])) == ["org/voice"]
    assert ids(api(hub).list_models(author="shy")) == ["shy/gated"]
    assert ids(api(hub, MEMBER).list_models(author="shy")) == ["shy/gated", "shy/private"]


def test_a_listing_tells_what_is_asked_for(hub):
    (full,) = api(hub).list_models(search="voice", full=True, fetch_config=True)
    assert [file.rfilename for file in full.siblings] == [
        "README.md",
        "config.json",
        "model.safetensors",
        "voices/af.pt",
    ]
    assert full.config == {"model_type": "vits"}
    (some,) = api(hub).list_models(search="voice", expand=["safetensors", "gated"])
    assert (some.safetensors.total, some.gated, some.likes) == (12, False, None)


def test_listings_come_in_pages(hub):
    hub.knobs(page=2)
    assert len(ids(api(hub).list_models())) == 5
    assert len([request for request in hub.requests() if request.path == "/api/models"]) == 3
    assert len(api(hub).list_repo_files("org/voice")) == 4
    assert ids(api(hub).list_models(limit=1)) == ["org/image"]


def test_a_model_is_described_with_its_files(hub):
    info = api(hub).model_info("org/voice", files_metadata=True)
    files = {file.rfilename: file for file in info.siblings}
    assert files["model.safetensors"].size == files["model.safetensors"].lfs.size == len(WEIGHTS)
    assert files["config.json"].blob_id == "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # `git hash-object` says so.
    assert files["config.json"].lfs is None
    assert api(hub).model_info("org/voice", revision=info.sha).sha == info.sha
    assert api(hub).model_info("org/voice", expand=["likes"]).likes == 1


def test_a_tree_is_walked_level_by_level(hub):
    top = api(hub).list_repo_tree("org/voice")
    assert [entry.path for entry in top] == ["voices", "README.md", "config.json", "model.safetensors"]
    assert [entry.path for entry in api(hub).list_repo_tree("org/voice", "voices")] == ["voices/af.pt"]
    with pytest.raises(EntryNotFoundError):
        list(api(hub).list_repo_tree("org/voice", "nowhere"))


def test_a_snapshot_has_the_files_of_its_patterns_and_tells_its_progress(hub, download):
    bars = []

    class Bar(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "disable": False, "file": open(os.devnull, "w")})  # noqa: SIM115, PTH123
            bars.append(self)

        def close(self):
            super().close()
            self.fp.close()

    folder = download("org/voice", allow_patterns=["*.safetensors", "voices/*"], tqdm_class=Bar)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert set(files) == {"model.safetensors", "voices/af.pt"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert any(bar.n == len(WEIGHTS) + 2 for bar in bars)


def test_a_change_is_a_commit_and_the_old_one_is_gone(hub, download):
    old = api(hub).model_info("org/other").sha
    assert download("org/other").name == old
    hub.add("org/other", {"config.json": b'{"new": 1}'})
    new = api(hub).model_info("org/other").sha
    assert new != old
    assert ((download("org/other")) / "config.json").read_bytes() == b'{"new": 1}'
    with pytest.raises(RevisionNotFoundError):
        api(hub).model_info("org/other", revision=old)
    with pytest.raises(RevisionNotFoundError):
        api(hub).hf_hub_download("org/other", "config.json", revision=old, force_download=True)


def test_a_gated_repository_shows_itself_and_keeps_its_files(hub, download):
    assert api(hub).model_info("shy/gated").gated == "auto"
    for token, status in ((False, 401), (STRANGER, 403)):
        with pytest.raises(GatedRepoError) as refused:
            download("shy/gated", token)
        assert refused.value.response.status_code == status
    assert download("shy/gated", MEMBER)


@pytest.mark.parametrize("repo", ["shy/private", "shy/missing"])
def test_a_private_repository_looks_like_a_missing_one(hub, download, repo):
    for token, status in ((False, 401), (STRANGER, 404)):
        with pytest.raises(RepositoryNotFoundError) as refused:
            download(repo, token)
        assert refused.value.response.status_code == status
        assert not isinstance(refused.value, GatedRepoError)


def test_a_member_has_a_private_repository(hub, download):
    assert download("shy/private", MEMBER)
    hub.knobs(tokens=["hf_new"])
    assert api(hub, "hf_new").model_info("shy/private").private
    with pytest.raises(HfHubHTTPError):
        api(hub, MEMBER).model_info("shy/private")


def test_a_disabled_repository_says_so(hub):
    with pytest.raises(DisabledRepoError):
        api(hub, MEMBER).model_info("shy/disabled")


def test_an_unknown_token_is_refused_everywhere(hub, download):
    with pytest.raises(HfHubHTTPError) as refused:
        download("org/voice", "hf_wrong")
    assert refused.value.response.status_code == 401
    assert not isinstance(refused.value, RepositoryNotFoundError)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        list(api(hub, "hf_wrong").list_models())


def test_a_missing_file_is_told_from_a_missing_repository(hub):
    with pytest.raises(EntryNotFoundError):
        api(hub).hf_hub_download("org/voice", "nowhere.json")


def test_a_download_that_is_cut_goes_on_where_it_was(hub, download):
    hub.knobs(cut={"model.bin": Cut(at_byte=len(MANY) - 10, times=1)})
    folder = download("org/large")
    assert (folder / "model.bin").read_bytes() == MANY
    transfers = [request for request in hub.requests() if request.method == "GET" and "/resolve/" in request.path]
    assert [(transfer.range, transfer.status) for transfer in transfers] == [
        (None, 200),
        (f"bytes={10 * 1024 * 1024}-", 206),
    ]


def test_every_transfer_can_be_cut(hub):
    hub.knobs(cut={"model.bin": Cut(at_byte=100)})
    for start in (0, 50):
        got = bytearray()
        with (
            httpx.stream(
                "GET", f"{hub.url}/org/large/resolve/main/model.bin", headers={"Range": f"bytes={start}-"}
            ) as answer,
            pytest.raises(httpx.RemoteProtocolError),
        ):
            for piece in answer.iter_raw():
                got += piece
        assert got == MANY[start:100]


def test_a_hub_that_is_asked_too_often_is_asked_again(hub):
    hub.knobs(fail={"/api/models": Fail(429, times=1)})
    assert list(api(hub).list_models())
    assert [request.status for request in hub.requests()] == [429, 200]


def test_a_failure_says_which_limit_was_reached(hub):
    hub.knobs(fail={"org/voice": Fail(429, headers={"RateLimit": '"api";r=0;t=55'})})
    with pytest.raises(HfHubHTTPError, match="Retry after 55 seconds"):
        api(hub).model_info("org/voice")


def test_a_failing_hub_leaves_nothing_to_load(hub, download):
    hub.knobs(fail={"/api/": Fail(500)})
    with pytest.raises(LocalEntryNotFoundError, match="500"):
        download("org/voice")


def test_a_held_transfer_waits_for_its_release(hub):
    hub.knobs(hold={"model.safetensors": 1000})
    with httpx.stream("GET", f"{hub.url}/org/voice/resolve/main/model.safetensors") as answer:
        pieces = answer.iter_raw()
        got = next(pieces)
        assert len(got) == 1000
        assert [request.status for request in hub.requests()] == [200]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            rest = pool.submit(lambda: b"".join(pieces))
            assert not rest.done()
            hub.knobs(hold={})
            assert got + rest.result() == WEIGHTS


def test_a_slow_transfer_and_a_spoilt_one_have_their_length(hub, download):
    hub.knobs(delay={"model.safetensors": 0.001}, corrupt=["model.safetensors"])
    content = ((download("org/voice")) / "model.safetensors").read_bytes()
    assert len(content) == len(WEIGHTS)
    assert content != WEIGHTS


def test_data_sets_are_repositories_of_their_own(hub, download):
    folder = download("org/speakers", repo_type="dataset", allow_patterns="a/*")
    assert (folder / "a/x.npy").read_bytes() == b"x"
    assert api(hub).dataset_info("org/speakers").id == "org/speakers"
    assert ids(api(hub).list_datasets()) == ["org/speakers"]
    with pytest.raises(RepositoryNotFoundError):
        api(hub).model_info("org/speakers")


def test_a_process_sees_this_hub_alone(hub):
    code = "from huggingface_hub import snapshot_download; print(snapshot_download('shy/gated'))"
    environment = {**os.environ, **hub.environment, "HF_TOKEN": MEMBER}
    folder = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    assert folder.stdout.startswith(str(hub.cache / "hub" / "models--shy--gated"))
    assert {request.authorization for request in hub.requests()} == {f"Bearer {MEMBER}"}


def test_a_hub_goes_and_comes_back(tmp_path):
    hub = Hub(tmp_path)
    hub.add("org/voice", {"config.json": b"{}"})
    hub.end()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{hub.url}/api/models")
    hub = hub.again()
    assert ids(api(hub).list_models()) == ["org/voice"]
    hub.end()
