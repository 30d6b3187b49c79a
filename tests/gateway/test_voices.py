"""Recordings as they are uploaded, and where they are kept; each owner's for that owner alone."""

import io
import json
import os
import shutil
import stat
import threading

import numpy as np
import pytest
import soundfile
from structlog.testing import capture_logs

from gateway.audio.decode import decode
from gateway.errors import ApiError
from gateway.voices import VoiceStore

FACTS = {"name": "Ann", "consent": "I agree.", "transcript": "", "language": "", "gender": ""}


def sine(duration_s=2.0, rate_hz=24_000, channels=1, level=0.5) -> np.ndarray:
    """float64 [S] or [S, C]: 600 Hz."""
    samples = level * np.sin(2 * np.pi * 600 * np.arange(round(duration_s * rate_hz)) / rate_hz)
    return samples if channels == 1 else np.stack([samples] * channels, axis=1)


def file_of(samples, rate_hz=24_000, form="WAV", subtype=None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=form, subtype=subtype)
    return file.getvalue()


def spectrum_of(pcm: bytes, rate_hz: int) -> tuple[float, float]:
    """The strongest pitch, in Hz, and the highest level."""
    samples = np.frombuffer(pcm, "<i2") / 32768
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate_hz / len(samples)), float(np.abs(samples).max())


def keep(store: VoiceStore, owner: str = "ann", pcm: bytes | None = None, **facts: str):
    return store.add(owner, **FACTS | facts, pcm=pcm or decode(file_of(sine()), "x").pcm, sample_rate_hz=24_000)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("form", "rate_hz", "kept_hz"),
    [
        ("WAV", 4000, 8000),
        ("WAV", 8000, 8000),
        ("WAV", 192_000, 48_000),
        ("FLAC", 96_000, 48_000),
        ("FLAC", 44_100, 44_100),
        ("OGG", 24_000, 24_000),
        ("MP3", 48_000, 48_000),
    ],
)
def test_a_recording_is_kept_as_long_as_loud_and_as_high_as_it_was(form, rate_hz, kept_hz, channels):
    recording = decode(file_of(sine(2.0, rate_hz, channels), rate_hz, form), "audio_sample")
    assert recording.sample_rate_hz == kept_hz
    assert len(recording.pcm) == 2 * 2 * kept_hz
    pitch_hz, level = spectrum_of(recording.pcm, kept_hz)
    assert pitch_hz == pytest.approx(600, abs=1)
    assert level == pytest.approx(0.5, abs=0.1)


def test_sixteen_bits_at_a_rate_that_is_kept_stay_what_they_are():
    samples = np.random.default_rng(1).integers(-32768, 32767, 50_000).astype("<i2")
    assert decode(file_of(samples, 22_050), "x").pcm == samples.tobytes()


@pytest.mark.parametrize("duration_s", [1.0, 30.0])
@pytest.mark.parametrize("rate_hz", [6000, 24_000, 88_200])
def test_the_shortest_and_the_longest_are_exactly_that_at_every_rate(duration_s, rate_hz):
    assert decode(file_of(sine(duration_s, rate_hz), rate_hz), "x").duration_s == duration_s


def test_a_change_of_the_rate_makes_no_recording_longer():
    samples = sine(9339 / 4666, 4666)
    assert len(decode(file_of(samples, 4666), "x").pcm) == 2 * (9339 * 8000 // 4666)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", ["cannot be read"]),
        (b"RIFF", ["cannot be read"]),
        (b"<html>no sound</html>" * 100, ["cannot be read", "WAV, FLAC, Ogg or MP3"]),
        (file_of(sine(), form="FLAC")[:9000], ["cannot be read"]),
        (file_of(sine())[:30_000], ["lasts 0.624 s", "1 to 30 s"]),
        (file_of(sine(1.0)[:-1]), ["lasts", "1 to 30 s"]),
        (file_of(np.append(sine(30.0), 0)), ["lasts over 30 s", "1 to 30 s"]),
        (file_of(np.zeros((48_000 * 1800, 2), "int16"), 48_000, "FLAC"), ["lasts over 30 s", "1800.0 s"]),
        (file_of(np.full(48_000, 0.3)), ["silent"]),
        (file_of(sine(level=0.0005)), ["silent"]),
        (file_of(np.stack([sine(), -sine()], axis=1)), ["silent"]),
        (file_of(np.where(np.arange(48_000) == 40_000, np.nan, sine()), subtype="FLOAT"), ["finite"]),
        (file_of(np.where(np.arange(48_000) == 7, np.inf, sine()), subtype="DOUBLE"), ["finite"]),
        (file_of(sine(channels=3)), ["3 channels", "1 or 2"]),
        (file_of(sine(), 2000), ["2000 Hz", "4000 to 192000"]),
        (file_of(sine(), 2_000_000), ["2000000 Hz", "4000 to 192000"]),
    ],
)
def test_what_is_no_usable_recording_is_refused_with_the_cause(file, words):
    with pytest.raises(ApiError) as caught:
        decode(file, "audio_sample")
    assert (caught.value.reason, caught.value.param) == ("INVALID_REQUEST", "audio_sample")
    assert all(word in caught.value.message for word in ("`audio_sample`", *words)), caught.value.message


def test_a_header_that_promises_more_than_there_is_does_not_lengthen_the_recording():
    file = bytearray(file_of(sine()))
    file[4:8] = file[40:44] = b"\xff\xff\xff\xff"
    assert decode(bytes(file), "x").duration_s == 2.0


def test_a_voice_outlives_its_gateway_sample_by_sample(tmp_path):
    pcm = decode(file_of(sine()), "x").pcm
    voice = keep(VoiceStore(tmp_path, 9), pcm=pcm, transcript="Hello.", language="en-GB", gender="female")
    again = VoiceStore(tmp_path, 9)
    assert again.get("ann", voice.id) == voice
    assert (voice.transcript, voice.language, voice.gender, voice.duration_s) == ("Hello.", "en-GB", "female", 2.0)
    found = again.find("ann", voice.id)
    assert (found.id, found.pcm, found.sample_rate_hz, found.transcript) == (voice.id, pcm, 24_000, "Hello.")
    assert again.find("ann", voice.id) is found, "read from the disk once more"


def test_each_owner_sees_and_deletes_only_what_is_theirs(tmp_path):
    store = VoiceStore(tmp_path, 9)
    voice = keep(store, "ann")
    for other in ("bob", "", "ann ", "../ann"):
        assert store.find(other, voice.id) is store.get(other, voice.id) is None
        assert store.all_of(other) == []
        assert not store.delete(other, voice.id)
    assert store.all_of("ann") == [voice]


def test_nobody_else_on_the_machine_may_read_a_voice(tmp_path):
    was = os.umask(0)
    try:
        keep(VoiceStore(tmp_path / "data" / "voices", 9))
    finally:
        os.umask(was)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data" / "voices").rglob("*")}
    assert len(modes) == 4
    assert stat.S_IMODE((tmp_path / "data" / "voices").stat().st_mode) == 0o700
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items()), modes


def test_what_one_gateway_deletes_no_other_finds(tmp_path):
    one, other = VoiceStore(tmp_path, 9), VoiceStore(tmp_path, 9)
    voice = keep(one)
    held = other.find("ann", voice.id)
    assert one.delete("ann", voice.id)
    assert other.find("ann", voice.id) is other.get("ann", voice.id) is None
    assert other.all_of("ann") == []
    assert not one.delete("ann", voice.id)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "the recording is still on the disk"
    assert len(held.pcm) == 96_000, "what had begun has lost its recording"


@pytest.mark.parametrize("name", ["", "low", "..", "../x", "voice_", "voice_" + "x" * 32, "voice_" + "a" * 33, "a\0b"])
def test_what_is_no_id_never_becomes_a_path(tmp_path, name):
    store = VoiceStore(tmp_path / "voices", 9)
    keep(store)
    (tmp_path / "x").mkdir()
    assert store.find("ann", name) is store.get("ann", name) is None
    assert not store.delete("ann", name)
    assert (tmp_path / "x").exists()


def test_a_disk_that_takes_nothing_is_told_without_its_paths(tmp_path):
    (tmp_path / "file").touch()
    store = VoiceStore(tmp_path / "file" / "voices", 9)
    with capture_logs() as lines:
        with pytest.raises(ApiError) as caught:
            keep(store)
        assert store.all_of("ann") == []
    assert (caught.value.reason, caught.value.form.status) == ("STORAGE_FAILURE", 507)
    assert "Not a directory" in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert [line["log_level"] for line in lines] == ["error", "warning"]
    some_id = f"voice_{1:032x}"
    assert store.find("ann", some_id) is store.get("ann", some_id) is None
    assert not store.delete("ann", some_id)


def test_a_recording_is_kept_as_samples_that_cost_nothing_to_read(tmp_path):
    """It is read between the chunks of other people's streams, where a codec would hold them up."""
    pcm = decode(file_of(sine()), "x").pcm
    keep(VoiceStore(tmp_path, 9), pcm=pcm)
    (sound,) = tmp_path.rglob("recording.wav")
    assert sound.read_bytes()[44:] == pcm
    assert soundfile.info(sound).frames == len(pcm) // 2


def test_broken_voices_are_left_out_and_the_others_stay(tmp_path):
    store = VoiceStore(tmp_path, 9)
    good = keep(store)
    (home,) = tmp_path.iterdir()
    broken = {n: f"voice_{n:032x}" for n in range(5)}
    for name in broken.values():
        shutil.copytree(home / good.id, home / name)
        facts = json.loads((home / good.id / "voice.json").read_text()) | {"id": name}
        (home / name / "voice.json").write_text(json.dumps(facts))
    (home / broken[0] / "voice.json").unlink()
    (home / broken[1] / "voice.json").write_text("{")
    (home / broken[2] / "voice.json").write_text("{}")
    shutil.copy(home / good.id / "voice.json", home / broken[3])
    sound = home / broken[4] / "recording.wav"
    sound.write_bytes(sound.read_bytes()[:5000])
    (home / ".half").mkdir()
    (home / "file").touch()
    with capture_logs() as lines:
        assert {voice.id for voice in store.all_of("ann")} == {good.id, broken[4]}
        assert all(store.find("ann", name) is None for name in broken.values())
        assert store.find("ann", good.id)
        assert not store.find("ann", f"voice_{99:032x}")
    assert {line["log_level"] for line in lines} == {"warning"}
    assert {line["path"] for line in lines} == {str(home / name) for name in broken.values()}
    assert all(store.delete("ann", name) for name in broken.values()), "a broken voice cannot be deleted"


def test_of_many_who_add_at_once_as_many_succeed_as_there_is_room_for(tmp_path):
    store = VoiceStore(tmp_path, 3)
    keep(store)
    results = []

    def add() -> None:
        try:
            results.append(keep(store))
        except ApiError as error:
            results.append(error)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [each for each in results if isinstance(each, ApiError)]
    assert len(errors) == 6
    assert (errors[0].reason, errors[0].form.status) == ("VOICE_LIMIT", 400)
    assert "3 custom voices" in errors[0].message
    assert len(store.all_of("ann")) == 3
    keep(store, "bob")
    store.delete("ann", store.all_of("ann")[0].id)
    keep(store)


def test_what_a_killed_gateway_has_left_goes_once_it_is_old(tmp_path):
    store = VoiceStore(tmp_path, 9)
    keep(store)
    (home,) = tmp_path.iterdir()
    for name in (".old", ".new"):
        (home / name).mkdir()
        (home / name / "recording.wav").write_bytes(b"x")
    os.utime(home / ".old", (0, 0))
    keep(store)
    assert not (home / ".old").exists()
    assert (home / ".new").exists(), "another gateway is writing that"
