"""Requests of programs that no registry ships, as their sources write them, and what these do with the answer."""

import json
from pathlib import Path
from urllib.request import Request, urlopen

import httpx
import pytest

from tests.clients.listen import assert_same, decoded
from tests.stack import PATIENCE_S, TONE

TEXT = "one two three four"


@pytest.fixture
def pcm(stack):
    """What every program is to hear."""
    return stack.speak(input=TEXT, voice="alloy", response_format="pcm").content


def post(stack, body: dict, **headers: str) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/audio/speech", json=body, headers=headers, timeout=PATIENCE_S)


def test_open_webui_finds_models_and_voices_without_a_key(stack):
    """It reads `id` of each model, and `id` and `name` of each voice; else it offers six names of its own."""
    models = httpx.get(f"{stack.url}/v1/audio/models").raise_for_status().json()["models"]
    assert {TONE, "tts-1", "gpt-4o-mini-tts"} <= {model["id"] for model in models}
    voices = httpx.get(f"{stack.url}/v1/audio/voices").raise_for_status().json()["voices"]
    offered = {voice["id"]: voice["name"] for voice in voices}
    assert offered["low"] == "Low"
    body = {"model": models[0]["id"], "input": TEXT, "voice": voices[0]["id"]}
    assert post(stack, {**body, "model": TONE}, authorization="Bearer").status_code == 200


@pytest.mark.parametrize("params", [{}, {"response_format": "mp3", "speed": 1}])
def test_open_webui_saves_what_it_gets_as_mp3_and_it_plays(stack, pcm, tmp_path, params):
    """It names no format unless its administrator has added one, and never looks at the type: players find it out."""
    answer = post(
        stack,
        {"input": TEXT, "voice": "alloy", "model": "tts-1", **params},
        **{
            "authorization": "Bearer none",
            "x-openwebui-user-name": "Zo%C3%AB",
            "x-openwebui-user-id": "a-b-c",
            "x-openwebui-user-email": "zoe@example.org",
            "x-openwebui-user-role": "user",
        },
    )
    saved: Path = tmp_path / "speech.mp3"
    saved.write_bytes(answer.raise_for_status().content)
    assert_same(*decoded(saved.read_bytes()), pcm)


def test_open_webui_shows_the_message_of_an_error(stack):
    answer = post(stack, {"input": TEXT, "voice": "bob", "model": "tts-1"}, authorization="Bearer none")
    assert answer.status_code == 404
    assert "'bob'" in answer.json()["error"]["message"]


def test_sillytavern_gets_mp3_with_an_empty_key(stack, pcm):
    """Its server passes on what its page asks for, with a key that is empty unless one was given."""
    answer = post(
        stack,
        {"input": TEXT, "response_format": "mp3", "voice": "alloy", "speed": 1, "model": "tts-1"},
        authorization="Bearer",
    )
    assert answer.headers["content-type"] == "audio/mpeg"
    assert_same(*decoded(answer.content), pcm)


def test_home_assistant_gets_mp3_by_urllib(stack, pcm):
    """The integration `openai_tts` has the whole address as its setting, and no key where none was given."""
    body = {"model": "tts-1", "input": TEXT, "voice": "alloy", "response_format": "mp3", "speed": 1.0}
    request = Request(
        f"{stack.url}/v1/audio/speech",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "HomeAssistant-OpenAI-TTS"},
        method="POST",
    )
    with urlopen(request, timeout=30) as answer:
        assert_same(*decoded(answer.read()), pcm)


@pytest.mark.parametrize("form", ["mp3", "opus"])
def test_home_assistant_hears_the_beginning_of_a_long_text_while_the_rest_is_being_made(stack, form):
    """It streams Opus in pieces of 4 KiB once it has 1 KiB, and gives up after 60 s."""
    name = f"home-assistant-{form}"
    text = f"<long=2> two <hold={name}> four <long=0.5>"
    body = {
        "model": "gpt-4o-mini-tts",
        "input": text,
        "voice": "alloy",
        "response_format": form,
        "speed": 1.0,
        "instructions": "Speak calmly.",
        "seed": 3,  # An extra field, as its users add them.
    }
    headers = {"user-agent": "HomeAssistant-OpenAI-TTS", "authorization": "Bearer none"}
    with httpx.stream("POST", f"{stack.url}/v1/audio/speech", json=body, headers=headers, timeout=PATIENCE_S) as answer:
        audio, pieces = b"", answer.iter_bytes()
        while len(audio) < 1024:
            audio += next(pieces)
        assert not (stack.signals / name).exists()
        (stack.signals / name).touch()
        audio += b"".join(pieces)
    assert_same(*decoded(audio), stack.speak(input=text, voice="alloy", response_format="pcm").content)


def test_home_assistant_finds_voices_beside_the_address_of_speech(stack):
    voices = httpx.get(f"{stack.url}/v1/audio/voices", headers={"authorization": "Bearer none"}).json()["voices"]
    assert all(voice["id"] and voice["name"] for voice in voices)


@pytest.mark.parametrize("default_format", ["wav", "mp3"])
def test_librechat_passes_on_what_it_gets_where_the_default_format_is_one_that_it_announces(start, default_format):
    """It sends `input`, `model` and `voice` alone, and tells the browser MP3; see `SONORANT_DEFAULT_FORMAT`."""
    stack = start(SONORANT_DEFAULT_FORMAT=default_format)
    answer = post(stack, {"input": TEXT, "model": "tts-1", "voice": "alloy"}, authorization="Bearer none")
    assert answer.headers["content-type"] == {"wav": "audio/wav", "mp3": "audio/mpeg"}[default_format]
    pcm = stack.speak(input=TEXT, voice="alloy", response_format="pcm").content
    assert_same(*decoded(answer.content), pcm)


@pytest.mark.parametrize("path", ["/v1/readyz", "/health", "/v1/test", "/v1/health"])
def test_probes_that_tell_other_servers_find_nothing(stack, path):
    """wyoming-openai takes a server that answers one of them for LocalAI, Speaches or Kokoro-FastAPI."""
    assert httpx.get(f"{stack.url}{path}").status_code == 404
