"""What can be found out of models and voices, in the shapes that clients parse."""

import httpx

from tests.stack import HIBARI, PATIENCE_S, TONE, eventually

ALIASES = {"tts-1", "tts-1-hd", "gpt-4o-mini-tts"}


def get(stack, path: str):
    answer = httpx.get(f"{stack.url}{path}", timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_open_webui_finds_the_models_that_v1_models_lists(stack):
    models = get(stack, "/v1/audio/models")["models"]
    assert all(model.keys() == {"id", "name"} and model["name"] == model["id"] for model in models)
    ids = [model["id"] for model in models]
    assert ids == [model["id"] for model in get(stack, "/v1/models")["data"]]
    assert {TONE, HIBARI, *ALIASES} <= set(ids)


def test_every_voice_that_is_listed_speaks_and_openais_names_do_too(stack):
    voices = [voice for voice in get(stack, "/v1/audio/voices")["voices"] if not voice.get("custom")]
    assert voices[0]["model"] == TONE
    assert {voice["model"] for voice in voices} >= {TONE, HIBARI}
    for voice in voices:
        assert voice.keys() == {"id", "name", "language", "gender", "model"}
        assert isinstance(voice["name"], str)
        answer = stack.speak(model=voice["model"], voice=voice["id"], input="one")
        assert (answer.status_code, answer.headers["x-sonorant-voice"]) == (200, voice["id"]), answer.text
    # Open WebUI falls back to these; they are no entries of the list, and work all the same.
    for name in ("alloy", "echo", "fable", "onyx", "nova", "shimmer"):
        assert name not in {voice["id"] for voice in voices}
        assert stack.speak(model="tts-1", voice=name, input="one").status_code == 200


def test_the_console_learns_what_each_model_takes(start):
    stack = start()
    catalogue = get(stack, "/api/models")
    found = {model["id"]: model for model in catalogue["models"] + catalogue["local"]}
    plain, gifted = found[TONE], found["sonorant/tone-22k"]
    for model in (plain, gifted):
        assert model["options"]["word_ms"]["type"] == "integer"
        assert (model["options"]["word_ms"]["minimum"], model["options"]["word_ms"]["maximum"]) == (10, 10_000)
    assert (plain["takes_instructions"], plain["cloning"]) == (False, None)
    assert (gifted["takes_instructions"], gifted["cloning"]) == (True, "audio")


def test_every_worker_is_listed_with_its_models(start):
    stack = start(workers=2)
    answer = get(stack, "/api/workers")
    assert answer["default_model"] == TONE
    bare = [{name: value for name, value in each.items() if name != "models"} for each in answer["workers"]]
    assert [each["id"] for each in bare] == ["w0", "w1"]
    constant = ("address", "state", "id", "engines", "capacity", "build")
    for each, told in zip(bare, stack.gateway.health()["workers"], strict=True):
        assert each.keys() == told.keys()
        assert {name: each[name] for name in constant} == {name: told[name] for name in constant}
    for worker in answer["workers"]:
        models = {model["id"]: model for model in worker["models"]}
        idle = {"active": 0, "calls": 0}
        assert models[TONE] == {"id": TONE, "state": "ready", "memory_bytes": models[TONE]["memory_bytes"], **idle}
        assert models[HIBARI] == {"id": HIBARI, "state": "cached", "memory_bytes": None, **idle}
    stack.workers[0].end()
    eventually(lambda: stack.gateway.up() == ["w1"], "the gateway sees that a worker has gone")
    gone, _ = get(stack, "/api/workers")["workers"]
    assert gone.pop("reason")
    assert gone == {"address": stack.workers[0].address, "state": "down", "id": "w0", "models": []}


def test_a_model_that_is_speaking_is_active_on_its_worker(stack):
    def active() -> int:
        (worker,) = get(stack, "/api/workers")["workers"]
        return next(model["active"] for model in worker["models"] if model["id"] == TONE)

    with stack.stream(input="one <hold=workers> two"):
        eventually(lambda: active() == 1, "the worker tells that it speaks")
        (stack.signals / "workers").touch()


def test_a_model_that_could_not_be_loaded_says_why(start, broken_engine):
    stack = start(worker_settings=broken_engine, expect_ready=False)

    def failed() -> list[dict]:
        try:
            workers = get(stack, "/api/workers")["workers"]
        except httpx.HTTPError:
            return []
        return [model for worker in workers for model in worker["models"] if model["state"] == "failed"]

    eventually(failed, "the worker tells that it failed")
    (model,) = failed()
    assert model["id"] == "tests/broken"
    assert model["reason"]


def test_the_lists_are_there_while_no_worker_is(start):
    stack = start()
    stack.worker.end()
    eventually(lambda: not stack.gateway.up(), "the gateway sees that the worker has gone")
    for path in ("/v1/models", "/v1/audio/models", "/v1/audio/voices", "/api/workers"):
        get(stack, path)


def test_voices_of_no_model_are_not_found(stack):
    for name in ("no/such", ""):
        answer = httpx.get(f"{stack.url}/v1/audio/voices", params={"model": name}, timeout=PATIENCE_S)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")
