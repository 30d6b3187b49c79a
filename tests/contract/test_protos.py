import pytest

from protos import generate


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
