"""Text in by WebSocket as it is written, speech out as it is made; over the whole stack, by real clients."""

import base64
import contextlib
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys

import av
import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.stack import HIBARI, PATIENCE_S, ROOT, TONE, clean_environment, eventually

PATH = "/v1/audio/speech/stream"
SLOW = "<delay=0.02> " * 200
SLOW_AND_MUTE = "<pause=0.02> " * 200
PAUSE = bytes(2 * round(0.32 * 24_000))


class Session:
    """A client that is told what to send and keeps what it gets."""

    def __init__(self, ws):
        self.ws = ws

    def send(self, kind, **fields):
        self.ws.send(json.dumps({"type": kind, **fields}))

    def say(self, *chunks):
        """A whole turn."""
        for chunk in chunks:
            self.send("text.append", text=chunk)
        self.send("text.flush")

    def get(self):
        message = self.ws.recv(PATIENCE_S)
        return message if isinstance(message, bytes) else json.loads(message)

    def until(self, *kinds):
        """What comes up to a message of one of these types: the audio, and the messages in order."""
        audio, events = b"", []
        while not events or events[-1]["type"] not in kinds:
            assert not events or events[-1]["type"] != "error", events[-1]
            message = self.get()
            if isinstance(message, bytes):
                audio += message
            else:
                events.append(message)
        return audio, events

    def configure(self, **fields):
        self.send("session.configure", **fields)
        answer = self.get()
        assert answer["type"] == "session.configured", answer
        return answer

    def rest(self):
        """All that comes until the server closes, and its code."""
        got = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                got.append(self.get())
        return got, self.ws.close_code


@contextlib.contextmanager
def session(stack, **options):
    url = f"ws://127.0.0.1:{stack.gateway.port}{PATH}"
    with connect(url, compression=None, open_timeout=PATIENCE_S, **options) as ws:
        yield Session(ws)


def whole(stack, **body):
    answer = stack.speak(stream=False, **body)
    assert answer.status_code == 200, answer.text
    return answer.content


def test_a_turn_is_its_sentences_one_after_the_other_with_their_pauses(stack):
    with session(stack) as live:
        configured = live.configure(response_format="pcm", seed=5, voice="high", model=TONE)
        assert configured == {
            "type": "session.configured",
            "model": TONE,
            "voice": "high",
            "response_format": "pcm",
            "split": "sentence",
            "audio": "binary",
        }
        live.say("One two", ". Th", "ree four.")
        audio, events = live.until("speech.done")
    assert audio == whole(stack, input="One two. Three four.", response_format="pcm", seed=5, voice="high")
    started, *marks, done = events
    assert started == {
        "type": "speech.started",
        "turn": 1,
        "model": TONE,
        "voice": "high",
        "sample_rate": 24_000,
        "channels": 1,
        "format": "pcm",
        "worker": "w0",
        "ignored": [],
    }
    fields = ("text_start", "text_end", "start_ms", "end_ms")
    assert {mark["type"] for mark in marks} == {"speech.mark"}
    assert [tuple(mark[field] for field in fields) for mark in marks] == [
        *((0, 8, 0, None), (0, 8, 0, 200)),
        *((9, 20, 520, None), (9, 20, 520, 720)),
    ]
    usage = {"input_tokens": 20, "output_tokens": 15, "total_tokens": 35}
    assert done == {"type": "speech.done", "turn": 1, "usage": usage, "audio_ms": 720}


@pytest.mark.parametrize("form", ["wav", "mp3", "opus", "aac", "flac", "pcm"])
def test_the_binary_messages_of_a_turn_are_one_complete_file(stack, form):
    text = "One two three. Four five six! Seven."
    with session(stack) as live:
        live.configure(response_format=form, seed=1)
        files = []
        for _ in range(2):
            live.say(text)
            files.append(live.until("speech.done")[0])
    assert files[0] == files[1] or form == "opus"  # An Ogg stream has a number of its own.
    raw = ("s16le", {"sample_rate": "24000", "ch_layout": "mono"}) if form == "pcm" else (None, {})
    with av.open(io.BytesIO(files[1]), format=raw[0], options=raw[1]) as container:
        to = av.AudioResampler("s16", "mono", 24_000)
        frames = [out for frame in container.decode(audio=0) for out in to.resample(frame)]
        samples = np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *to.resample(None)]])
    spoken = 24_000 * (7 * 100 + 2 * 320) // 1000
    if form in ("wav", "flac", "pcm"):
        assert len(samples) == spoken
    assert spoken <= len(samples) <= spoken + 6000
    loud = np.flatnonzero(np.abs(samples.astype(int)) > 3000)
    assert loud[-1] >= spoken - 1000  # The tail is there, too.


def test_tokens_of_a_language_model_are_spoken_as_the_text_would_be(stack):
    text = "Dr. Smith has 3.14 euros. “Is that much?” Yes,\nit is… Well."
    answers = []
    with session(stack) as live:
        live.configure(response_format="pcm", seed=9)
        for chunks in ([text], list(text), re.split(r"(?= )", text)):
            live.say(*chunks)
            audio, events = live.until("speech.done")
            answers.append((audio, [(e["text_start"], e["text_end"]) for e in events if e["type"] == "speech.mark"]))
    assert answers[0] == answers[1] == answers[2]
    assert {text[a:b] for a, b in answers[0][1]} >= {"Dr. Smith has 3.14 euros.", "“Is that much?”"}


def test_a_sentence_is_spoken_while_the_next_one_is_being_written(stack):
    with session(stack) as live:
        live.send("text.append", text="One two. Thr")
        assert live.until("speech.started")[1][0]["format"] == "wav"
        while not isinstance(audio := live.get(), bytes):
            pass
        assert audio[:4] == b"RIFF"
        live.say("ee.")
        live.until("speech.done")


def test_clauses_and_base64_and_speed_and_rates_are_as_configured(stack):
    with session(stack) as live:
        live.configure(response_format="pcm", sample_rate=48_000, speed=4.0, split="clause", audio="base64")
        live.say("one two three four five, six seven")
        _, events = live.until("speech.done")
    audio = b"".join(base64.b64decode(event["audio"]) for event in events if event["type"] == "speech.audio.delta")
    ends = [(e["text_end"], e["start_ms"], e["end_ms"]) for e in events if e["type"] == "speech.mark" and e["end_ms"]]
    # The engine does twice the pace, the gateway the rest; between clauses there is a short breath.
    assert ends == [(24, 0, 125), (34, 155, 205)]
    assert events[0]["sample_rate"] == 48_000
    assert events[-1]["audio_ms"] == 205
    assert len(audio) / 2 / 48_000 == pytest.approx(0.205, abs=0.02)


def test_one_voice_speaks_the_whole_session_where_the_seed_makes_the_voice(stack):
    with session(stack) as live:
        live.configure(response_format="pcm")
        turns = []
        for _ in range(2):
            live.say("One two. One two.")
            turns.append(live.until("speech.done")[0])
    assert turns[0] == turns[1]


def test_what_is_random_goes_on_from_piece_to_piece_as_it_does_within_one_text(stack):
    text = "One two. One two. One two."
    with session(stack) as live:
        live.configure(response_format="pcm", seed=7)
        live.say(text)
        spoken = live.until("speech.done")[0]
    assert spoken == stack.speak(input=text, seed=7, response_format="pcm").content
    first, second, third = spoken.split(PAUSE)
    assert first != second != third != first


@pytest.mark.parametrize("phase", ["before the first audio", "midway", "between sentences"])
def test_a_cancel_stops_the_worker_and_the_session_goes_on(stack, phase):
    trace = stack.signals / f"cancelled-{phase.replace(' ', '-')}"
    lead = {"before the first audio": SLOW_AND_MUTE, "midway": f"word {SLOW}", "between sentences": "word. Next"}[phase]
    with session(stack) as live:
        live.send("text.append", text=lead)
        if phase != "between sentences":
            live.say(f"<touch={trace.name}>.")
        if phase == "before the first audio":
            eventually(lambda: stack.worker.running, "the worker has begun")
        else:
            while not isinstance(live.get(), bytes):
                pass
        live.say(f"waits {SLOW} <touch={trace.name}>.")
        live.send("speech.cancel")
        _, events = live.until("speech.cancelled")
        number = events[-1]["turn"]
        assert number == 1
        if phase != "between sentences":
            # The waiting turn has gone with it, and nothing came between.
            assert live.get() == {"type": "speech.cancelled", "turn": 2, "audio_ms": 0}
            number = 2
        eventually(stack.is_idle, "nothing is left counted as running")
        assert not trace.exists()
        live.send("speech.cancel")
        assert live.get() == {"type": "speech.cancelled", "turn": None, "audio_ms": 0}
        live.configure(response_format="pcm")
        live.say("one two")
        audio, events = live.until("speech.done")
        assert len(audio) == 2 * 4800
        assert {event["turn"] for event in events} == {number + 1}


def test_a_client_that_does_not_read_holds_the_worker_back_and_can_still_cancel(stack):
    trace = stack.signals / "reached-unread-live"
    with session(stack, max_queue=1) as live:
        live.say(f"{'<long=10> ' * 60}<touch={trace.name}>")
        live.until("speech.started")
        # Somebody else is served meanwhile, the whole of it.
        assert len(whole(stack, input="<long=10> " * 12)) == 44 + 2 * 24_000 * 120
        assert stack.worker.running == 1
        live.send("speech.cancel")
        eventually(stack.is_idle, "nothing is left counted as running")
        assert not trace.exists()
        audio, events = live.until("speech.cancelled")
        assert (len(audio) - 44) / 48_000 <= events[-1]["audio_ms"] / 1000 < 300
        live.say("one")
        assert live.until("speech.done")[1][-1]["audio_ms"] == 100


def test_turns_wait_for_one_another(stack):
    with session(stack) as live:
        live.configure(response_format="pcm")
        live.say("<hold=live-first>")
        live.say("two")
        live.say("three")
        eventually(lambda: stack.worker.running, "the worker has begun")
        (stack.signals / "live-first").touch()
        for number in (1, 2, 3):
            _, events = live.until("speech.done")
            assert {event["turn"] for event in events} == {number}


def test_a_failure_ends_its_turn_and_the_session_lives_on(stack):
    with session(stack) as live:
        live.configure(response_format="pcm")
        live.send("text.append", text="One two. <fail> three. Fo")
        audio, events = live.until("error")
        assert len(audio) == 2 * 4800
        assert events[-1]["turn"] == 1
        assert events[-1]["error"]["code"] == "engine_failure"
        # What is still being written of that text is not spoken.
        live.say("ur. Five.", " Six.")
        live.say("one")
        audio, events = live.until("speech.done")
        assert (len(audio), events[0]["turn"]) == (4800, 2)
        for wrong in ({"voice": "bob"}, {"model": "no/such"}, {"shout": True}):
            live.configure(**wrong)
            live.say("one")
            assert live.until("error", "speech.done")[1][-1]["error"]["param"] in ("voice", "model", "shout")
        live.configure(model=HIBARI)
        live.say("😀 …")
        assert live.until("error", "speech.done")[1][-1]["error"]["code"] == "unspeakable_text"
    eventually(stack.is_idle, "nothing is left counted as running")


def test_pieces_move_to_another_worker_and_a_worker_lost_midway_ends_the_turn(start):
    stack = start(workers=2)
    with session(stack) as live:
        live.configure(response_format="pcm")
        live.send("text.append", text="One two. Thr")
        _, events = live.until("speech.started")
        while live.until("speech.mark")[1][-1]["end_ms"] is None:
            pass
        (speaker,) = [worker for worker in stack.workers if worker.name == events[0]["worker"]]
        speaker.end(signal.SIGKILL)
        live.say("ee four.")
        assert live.until("speech.done", "error")[1][-1].get("audio_ms") == 720
        live.say("one two <die> three")
        audio, events = live.until("speech.done", "error")
        assert (events[-1]["type"], events[-1]["turn"]) == ("error", 2)
        assert audio
        live.configure(response_format="wav")


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ("{", "JSON object"),
        ("[]", "JSON object"),
        ("{}", "`type` is missing"),
        ('{"type": 1}', "`type` is 1"),
        ('{"type": "text.apend", "text": "x"}', '"text.apend"; it must be one of session.configure, text.append'),
        ('{"type": "text.append"}', "`text` is missing"),
        ('{"type": "text.append", "text": 5}', "`text` is 5"),
        ('{"type": "text.append", "text": "a", "voice": "x"}', "`voice`"),
        ('{"type": "text.append", "text": "\\ud800"}', "surrogate"),
        ('{"type": "text.flush", "now": 1}', "`now`"),
        ('{"type": "text.flush"}', "nothing to flush"),
        ('{"type": "session.configure", "split": "word"}', "`split`"),
        ('{"type": "session.configure", "speed": 9}', "`speed` is 9"),
        ('{"type": "session.configure", "response_format": "mp4"}', "mp4"),
        ('{"type": "session.configure", "response_format": "opus", "sample_rate": 44100}', "44100"),
        ("[" * 100_000, "JSON object"),
    ],
)
def test_a_wrong_message_is_named_and_changes_nothing(stack, message, part):
    with session(stack) as live:
        live.configure(response_format="pcm")
        live.ws.send(message)
        answer = live.get()
        assert (answer["type"], answer["turn"]) == ("error", None)
        assert part in answer["error"]["message"]
        live.say("one")
        audio, events = live.until("speech.done")
        assert (len(audio), events[0]["turn"]) == (4800, 1)


def test_a_session_is_not_configured_within_a_turn(stack):
    with session(stack) as live:
        live.send("text.append", text="One")
        live.send("session.configure", voice="high")
        assert "turn 1 has begun" in live.get()["error"]["message"]
        live.send("text.flush")
        assert live.until("speech.done")[1][0]["voice"] == "low"


def test_a_turn_without_text_is_an_error_and_empty_chunks_are_none(stack):
    with session(stack) as live:
        live.send("text.append", text="")
        live.say(" \n")
        assert live.get()["turn"] == 1
        live.say("", "one", "")
        assert live.until("speech.done")[1][-1]["turn"] == 2


@pytest.mark.parametrize(("message", "code"), [(b"\0\1", 1003), ("x" * 600_000, 1009)])
def test_binary_and_endless_messages_end_the_session(stack, message, code):
    with session(stack) as live:
        live.configure()
        live.ws.send(message)
        assert live.rest()[1] == code
    eventually(stack.is_idle, "nothing is left counted as running")


def test_what_waits_is_bounded(start):
    stack = start(SONORANT_MAX_INPUT_CHARS="50")
    with session(stack) as live:
        live.configure(response_format="pcm")
        live.say("x" * 30, "y" * 21, "z")
        answer = live.until("error")[1][-1]
        assert (answer["turn"], answer["error"]["param"]) == (1, "text")
        assert "50" in answer["error"]["message"]
        for _ in range(18):
            live.say("<hold=bounded>")
        refused = [live.get() for _ in range(2)]
        assert [(each["turn"], each["error"]["code"]) for each in refused] == [(18, "overloaded"), (19, "overloaded")]
        (stack.signals / "bounded").touch()
        for number in range(2, 18):
            assert live.until("speech.done")[1][-1]["turn"] == number
        live.say("one")
        assert live.until("speech.done")[1][-1]["turn"] == 20


def test_a_client_that_reads_none_of_the_answers_is_let_go(stack):
    """A client that never reads, so that what is sent to it comes to a stand."""
    client = RawClient(stack, "deaf")
    client.send(type="text.append", text="<long=10> " * 60)
    client.send(type="text.flush")
    eventually(lambda: stack.worker.running, "the worker has begun")
    with contextlib.suppress(OSError):
        for _ in range(10_000):
            client.send(type="no such thing")
    eventually(stack.is_idle, "nothing is left counted as running")
    client.socket.close()
    assert stack.gateway.line_of("deaf")["outcome"] in ("cut", "refused")


class RawClient:
    """A WebSocket over a bare socket, for hanging up in every way there is."""

    def __init__(self, stack, request_id):
        self.socket = socket.create_connection(("127.0.0.1", stack.gateway.port), PATIENCE_S)
        self.socket.settimeout(PATIENCE_S)
        self.socket.sendall(
            f"GET {PATH} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            f"x-request-id: {request_id}\r\nsec-websocket-version: 13\r\n"
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.socket.recv(1)
        assert head.startswith(b"HTTP/1.1 101")
        assert f"x-request-id: {request_id}".encode() in head

    def frame(self, opcode, payload):
        length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
        self.socket.sendall(bytes([0x80 | opcode]) + length + b"\0\0\0\0" + payload)

    def send(self, **message):
        self.frame(1, json.dumps(message).encode())

    def hang_up(self, how):
        if how == "close frame":
            self.frame(8, struct.pack(">H", 1000))
            while self.socket.recv(65_536):
                pass
        elif how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@pytest.mark.parametrize("how", ["close frame", "fin", "reset"])
@pytest.mark.parametrize("phase", ["idle", "waiting for text", "before the first audio", "midway"])
def test_a_client_that_hangs_up_ends_the_work(stack, how, phase):
    trace = stack.signals / f"live-{how}-{phase}".replace(" ", "-")
    quiet_so_far = (stack.gateway.output + stack.worker.output).count("Traceback")
    client = RawClient(stack, trace.name)
    lead = {"idle": "", "waiting for text": "word"}.get(phase, SLOW_AND_MUTE if "before" in phase else f"word {SLOW}")
    client.send(type="text.append", text=lead)
    if phase in ("before the first audio", "midway"):
        client.send(type="text.append", text=f"<touch={trace.name}>. <touch={trace.name}>.")
        client.send(type="text.flush")
    if phase == "before the first audio":
        eventually(lambda: stack.worker.running, "the worker has begun")
    if phase == "midway":
        received = b""
        while b"speech.started" not in received:
            received += client.socket.recv(512)
    client.hang_up(how)
    eventually(stack.is_idle, "nothing is left counted as running")
    line = stack.gateway.line_of(trace.name)
    assert (line["outcome"], line["method"], line["status"]) == (
        "ok" if phase == "idle" else "client_gone",
        "WEBSOCKET",
        101,
    )
    assert not trace.exists()
    assert (stack.gateway.output + stack.worker.output).count("Traceback") == quiet_so_far


def test_closing_lets_what_was_said_be_heard_and_writes_one_line_in_the_log(stack):
    with session(stack, additional_headers={"x-request-id": "live-log"}) as live:
        assert live.ws.response.headers["x-request-id"] == "live-log"
        live.say("one two")
        live.send("text.append", text="three")
        live.send("session.close")
        live.send("text.append", text="four")
        got, code = live.rest()
    ends = {(each["type"], each["turn"]) for each in got if isinstance(each, dict)}
    assert {("speech.done", 1), ("speech.done", 2), ("error", None)} <= ends
    assert code == 1000
    line = stack.gateway.line_of("live-log")
    assert (line["outcome"], line["turns"], line["audio_s"]) == ("ok", 2, 0.3)
    assert (line["model"], line["voice"], line["format"]) == (TONE, "low", "wav")


def test_turns_take_their_part_of_the_quota_and_give_their_place_back(start):
    stack = start(SONORANT_RATE_STREAMS="1", SONORANT_RATE_CHARACTERS="2000")
    with session(stack) as live:
        for end in ("speech.cancel", "hold"):
            live.say(f"word <hold=quota-{end}>")
            live.until("speech.started")
            assert stack.speak(input="one").status_code == 429
            if end == "speech.cancel":
                live.send(end)
                live.until("speech.cancelled")
            (stack.signals / f"quota-{end}").touch()  # A held step cannot be cut short.
            if end == "hold":
                live.until("speech.done")
            assert stack.speak(input="one").status_code == 200
            eventually(stack.is_idle, "its own place is given back, a moment after the answer")
        # The second sentence of a turn counts, too.
        live.say("word. " + "<delay=0> " * 195)
        _, events = live.until("error", "speech.done")
        assert events[-1]["error"]["code"] == "rate_limit_exceeded", events[-1]
        live.say("two <fail>.")
        live.until("error")
        assert stack.speak(input="one").status_code == 200
        eventually(stack.is_idle, "its own place is given back, a moment after the answer")
        live.say("word " + "<delay=0.1> " * 20)
        live.until("speech.started")
    eventually(lambda: stack.speak(input="one").status_code == 200, "the place is free again")


def test_a_gateway_that_ends_finishes_the_turn_and_says_so(start):
    stack = start()
    with session(stack) as idle, session(stack) as live:
        idle.configure()
        live.configure(response_format="pcm")
        live.send("text.append", text="One. <hold=drain> two.")
        live.until("speech.started")
        stack.gateway.popen.send_signal(signal.SIGTERM)
        assert idle.rest() == ([], 1012)
        with pytest.raises(InvalidStatus) as refused, session(stack):
            pass
        assert refused.value.response.status_code == 503
        live.say(" Three.")
        live.say("New.")
        _, events = live.until("error")
        assert (events[-1]["turn"], events[-1]["error"]["code"]) == (2, "draining")
        (stack.signals / "drain").touch()
        got, code = live.rest()
        assert (got[-1]["type"], got[-1]["turn"], code) == ("speech.done", 1, 1012)
    assert stack.gateway.popen.wait(PATIENCE_S) == 0


def test_pages_of_listed_origins_may_connect_with_their_key_as_a_subprotocol(start, tmp_path):
    made = subprocess.run(
        [sys.executable, "-m", "gateway.auth", "page"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / "keys").write_text(made.stdout)
    key = made.stderr.split()[-1]
    stack = start(SONORANT_API_KEYS_FILE=str(tmp_path / "keys"), SONORANT_CORS_ORIGINS="https://ours.example")
    offered = ["sonorant", f"sonorant-key.{key}"]
    with session(stack, origin="https://ours.example", subprotocols=offered) as live:
        assert live.ws.subprotocol == "sonorant"
        live.say("one")
        live.until("speech.done")
    with session(stack, additional_headers={"authorization": f"Bearer {key}"}) as live:
        assert live.ws.subprotocol is None
        live.configure()
    for status, options in (
        (403, {"origin": "https://theirs.example", "subprotocols": offered}),
        (401, {"origin": "https://ours.example", "subprotocols": ["sonorant", "sonorant-key.wrong"]}),
        (401, {}),
    ):
        with pytest.raises(InvalidStatus) as refused, session(stack, **options):
            pass
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body)["error"]["message"]
    assert key not in stack.gateway.output


def test_the_example_of_the_documentation_speaks(stack, tmp_path):
    page = (ROOT / "docs" / "live.md").read_text("utf-8")
    (source,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    source = source.replace("localhost:8000", f"localhost:{stack.gateway.port}").replace(HIBARI, TONE)
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "turn 1" in done.stdout
    with av.open(str(tmp_path / "answer.wav")) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 24_000
    # Every message that the page shows is one that the server takes, or sends.
    for block in re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for line in filter(None, block.splitlines()):
            assert json.loads(line)["type"]


def test_a_plain_request_is_no_session(stack):
    answer = httpx.get(f"{stack.url}{PATH}")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert answer.json()["error"]["code"] == "upgrade_required"
