import re

import pytest

from protos import document, generate


@pytest.fixture
def lock(tmp_path, monkeypatch):
    path = tmp_path / "fields.lock"
    path.write_text(generate.LOCK.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(generate, "LOCK", path)
    return path


def test_the_sources_keep_every_promise():
    described = generate.describe()
    assert generate.broken_promises(described) == []
    assert generate.style(described) == []
    assert generate.stale_stubs() == []


def test_a_number_that_changes_its_meaning_is_found(lock):
    lock.write_text(
        lock.read_text("utf-8").replace("SynthesizeRequest.4 voice string", "SynthesizeRequest.4 tone string")
    )
    (problem,) = generate.broken_promises(generate.describe())
    assert "SynthesizeRequest.4" in problem
    assert "was `tone string`, is `voice string`" in problem


def test_a_number_that_has_gone_must_be_reserved(lock):
    lock.write_text(lock.read_text("utf-8") + "tts.v1.SynthesizeRequest.99 pitch float\n")
    (problem,) = generate.broken_promises(generate.describe())
    assert "reserve" in problem
    described = generate.describe()
    message = next(m for file in described.file for m in file.message_type if m.name == "SynthesizeRequest")
    message.reserved_range.add(start=99, end=100)
    assert generate.broken_promises(described) == []


def test_a_new_field_must_be_locked(lock):
    lines = lock.read_text("utf-8").splitlines(keepends=True)
    lock.write_text("".join(line for line in lines if "AudioChunk.2" not in line))
    assert generate.broken_promises(generate.describe()) == [
        "tts.v1.AudioChunk.2: not in fields.lock; run `make protos`"
    ]


def test_what_has_no_comment_is_found():
    described = generate.describe()
    file = next(file for file in described.file if file.name.endswith("speech.proto"))
    for place in file.source_code_info.location:
        if list(place.path) == [4, 0]:
            place.leading_comments = ""
    (problem,) = generate.style(described)
    assert "SynthesizeRequest has no comment" in problem


def test_the_page_of_the_contract_is_what_the_sources_give(tmp_path, monkeypatch):
    described = generate.describe()
    assert generate.stale_page(described) == []
    page = tmp_path / "docs" / "protocol.md"
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "PAGE", page)
    assert generate.stale_page(described) == ["docs/protocol.md: not what the sources give; run `make protos`"]
    generate.write_page(described)
    assert generate.stale_page(described) == []
    page.write_text(page.read_text("utf-8").replace("Pace:", "Speed:"), "utf-8")
    assert generate.stale_page(described)


def test_the_page_tells_of_everything_and_its_links_lead_somewhere():
    described = generate.describe()
    page = document.render(described)
    for file in described.file:
        methods = [f"{service.name}.{method.name}" for service in file.service for method in service.method]
        for name in [*methods, *(message.name for message in file.message_type)]:
            assert f"# {name}\n" in page
        fields = [field for message in file.message_type for field in message.field]
        for name in [each.name for each in fields] + [v.name for enum in file.enum_type for v in enum.value[1:]]:
            assert f"| `{name.removeprefix('ERROR_REASON_')}` |" in page
    assert "| 7 | `OVERLOADED` | `RESOURCE_EXHAUSTED` | `RetryInfo` | As many utterances" in page
    assert "[SynthesizeRequest](#synthesizerequest) → stream of [SynthesizeResponse](#synthesizeresponse)" in page
    headings = {re.sub(r"[^\w-]", "", title.lower()) for title in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(.*?)\)", page)) <= headings
