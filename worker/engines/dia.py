"""Engine `dia`: dialogue models that write rows of codec tokens, streamed while they write; knows no scheduling.

A Dia decoder makes one token for each of the nine codebooks of the Descript Audio Codec per step, which gives a frame
of 12 ms. It is done for several utterances at once (`dia_network`).

Dia has no fixed voices: who speaks follows from the seed, and from the tags `[S1]` and `[S2]` in the text for the
speakers of a dialogue. Text that begins with no tag is given to `[S1]`. Sounds in round brackets, such as `(laughs)`,
are performed.

A recording that is to be imitated is continued: its transcript goes before the text, and its tokens are the first rows.
They take up the room that the text would have, half a minute in all, so a long recording makes for short pieces of
text.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.audio import Trimmer
from worker.engines.base import (
    Card,
    Checkpoint,
    HubModel,
    Model,
    Part,
    Reference,
    Samples,
    SegmentLimits,
    Settings,
    Voice,
)
from worker.engines.dia_network import Line, Network, Sampling
from worker.engines.recordings import Reading, Recordings, Request
from worker.engines.sampling import Draws
from worker.engines.stages import Speech
from worker.engines.stepwise import TorchEngine, from_disk, place, seed_of
from worker.errors import UnspeakableText, UnsupportedModel, UnsupportedOption
from worker.text.phonemes import quote
from worker.text.segment import segment

if TYPE_CHECKING:
    from torch import Tensor

FEWEST_TOKENS = 5
"""Least `top_k`: up to four of the likeliest tokens are special ones, which are ruled out where they make no sense."""

SHORTEST_PIECE = 30
"""Characters of text for which there must be room after a recording."""

_TAG = re.compile(r"\[S\d\]")


class DiaEngine(TorchEngine):
    """Runs `nari-labs/Dia-1.6B-0626` and its like, in the layout of transformers."""

    name = "dia"

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """By the model type of transformers; the first Dia repositories, which have none, are of another layout."""
        return model.model_type == "dia"

    @classmethod
    def parts(cls, checkpoint: Checkpoint) -> Sequence[Part]:
        """The codec, which the processor's configuration names.

        Raises:
            UnsupportedModel: It names none.
        """
        return (Part(_codec_name(checkpoint), files=("config.json", "*.safetensors")),)

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> DiaModel:
        """Load the model and its codec.

        Raises:
            UnsupportedModel: The codec cannot be decoded in windows.
        """
        import transformers

        library: Any = transformers  # Which is typed in parts only.
        model = from_disk(library.DiaForConditionalGeneration, checkpoint.folder, device)
        codec = from_disk(library.DacModel, checkpoint.parts[_codec_name(checkpoint)], device)
        if any(ratio % 2 for ratio in codec.config.upsampling_ratios):
            raise UnsupportedModel(
                f"the codec of {checkpoint.name!r} upsamples by {list(codec.config.upsampling_ratios)}; with an odd "
                "ratio its frames have no fixed length, and only even ones are served",
                field="model",
            )
        processor = library.DiaProcessor(
            library.DiaFeatureExtractor.from_pretrained(checkpoint.folder, local_files_only=True),
            library.DiaTokenizer.from_pretrained(checkpoint.folder, local_files_only=True),
            codec,  # Loaded by hand: `DiaProcessor.from_pretrained` would ask the hub for it by its name.
        )
        return DiaModel(place(model, device), place(codec, device), processor, checkpoint.revision, device)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the network begins a piece of a segment with.

    Attributes:
        text: int64 [L] on the device: its bytes.
        given: int64 [P + D, C] on the device: the rows before it, as a `Line` takes them.
        most_frames: How many frames may follow.
        pause_s: Silence after it, in seconds.
    """

    text: Tensor
    given: Tensor
    most_frames: int
    pause_s: float = 0.0


class DiaModel(Model):
    """Speaks English dialogue.

    Args:
        model: `DiaForConditionalGeneration`.
        codec: `DacModel`.
        processor: `DiaProcessor`.
        revision: Of the checkpoint.
        device: Where they are.
    """

    # Frames stream at once, so a first segment has no need to be short; and a speaker is kept within a segment only.
    limits = SegmentLimits(first=400, longest=400, joins=True)
    is_staged = True

    def __init__(self, model: Any, codec: Any, processor: Any, revision: str, device: str) -> None:  # noqa: ANN401
        self._device = device
        # The row that begins everything, and those that are made.
        self._network = Network(model, codec, 1 + _num_rows(model), device)
        self.slots = self._network.num_slots
        self.card = Card(
            sample_rate_hz=codec.config.sampling_rate,
            voices=[Voice("default", "Default", "en")],
            revision=revision,
            options=_options(model.generation_config),
            cloning="audio and transcript",
        )
        self._read = DiaReading(self._network, processor, self.limits)

    def check(self, text: str, voice: str) -> None:
        """Refuse letters of other scripts than the Latin one, which the model knows only as bytes, and empty text.

        Raises:
            UnspeakableText: Names the characters.
        """
        spoken = _TAG.sub("", text)
        strange = [char for char in dict.fromkeys(spoken) if char.isalnum() and not _is_latin(char)]
        if strange:
            raise UnspeakableText(f"the model speaks English and cannot say {quote(strange)}", field="input")
        if not any(char.isalnum() for char in spoken):
            raise UnspeakableText(f"there is nothing to say in {text.strip()[:40]!r}", field="input")

    def speak(self, text: str, index: int, settings: Settings) -> Speech:
        """Speak one segment; every step is one row of tokens, and gives audio if that completes a window.

        All segments start from the utterance's seed: without a recording the model has no other way to keep a speaker
        (its model card says to fix the seed), though it may change with the text even so.
        """
        for prompt in (yield from self._read(Request(text, settings))):
            yield from self._continue(prompt, seed_of(settings, index if settings.reference else 0), settings)
            if prompt.pause_s:
                yield np.zeros(round(prompt.pause_s * self.card.sample_rate_hz), np.float32)

    def _continue(self, prompt: Prompt, seed: int, settings: Settings) -> Speech:
        """Speak what the model can take at once."""
        network, trimmer = self._network, Trimmer(self.card.sample_rate_hz)
        options = {name: settings.options.get(name, option["default"]) for name, option in self.card.options.items()}
        slot = network.slots.take()
        try:
            line = Line(
                slot, prompt.text, prompt.given, prompt.most_frames, Draws(seed, self._device), Sampling(**options)
            )
            yield from network.prefill(line)
            while not line.is_over:
                yield from network.step(line)
                if network.decode.is_worthwhile(line):
                    samples = yield from network.decode(line)
                    yield trimmer.feed(samples)
        finally:
            network.slots.give_back(slot)
        yield trimmer.flush()


class DiaReading(Reading[Sequence[Prompt]]):
    """Makes prompts of texts, and of the recordings that they continue: several where one leaves no room for all.

    Args:
        network: Says how much room there is.
        processor: `DiaProcessor`.
        limits: How long a segment may be.
    """

    def __init__(self, network: Network, processor: Any, limits: SegmentLimits) -> None:  # noqa: ANN401
        self.limit = network.num_slots
        self._network, self._processor, self._limits = network, processor, limits
        self._num_rows = _num_rows(network.model)
        self._longest_delay = max(network.delays)
        self._frame_rate_hz: float = network.codec.config.sampling_rate / network.hop_length
        self._recordings = Recordings(processor.feature_extractor.sampling_rate, self._encode)

    def size(self, item: Request, lead_s: float) -> str:
        """Which recording it is: to read one takes a while, and texts take none."""
        return item.settings.reference.key if item.settings.reference else ""

    def prompt(self, text: str, settings: Settings) -> Sequence[Prompt]:
        """Make the prompts of one segment.

        Raises:
            UnsupportedOption: The recording leaves no room for the text.
        """
        reference = settings.reference
        if reference is None:
            return [self._piece(text, _tagged(text), None, settings.speed)]
        given = self._recordings.read(reference)
        longest = self._longest_piece(reference, given)
        pieces = list(segment(" ".join(text.split()), "en", first=longest, longest=longest, joins=True))
        transcript = _tagged(reference.transcript)
        prompts = [
            self._piece(piece.text, f"{transcript} {_tagged(piece.text)}", given, settings.speed) for piece in pieces
        ]
        pauses = [*(piece.ends_at.value for piece in pieces[:-1]), 0.0]
        return [replace(prompt, pause_s=pause_s) for prompt, pause_s in zip(prompts, pauses, strict=True)]

    def _piece(self, text: str, written: str, given: Tensor | None, speed: float) -> Prompt:
        """Make a prompt of what is to be spoken, and of that with all that is written around it."""
        inputs = self._processor(text=[written], padding=False, return_tensors="pt")
        if given is None:
            given = inputs["decoder_input_ids"][0].long().to(self._network.device)
        bound = math.ceil(self._limits.bound_s(text, speed) * self._frame_rate_hz)
        most_frames = max(0, min(self._room(given), bound))
        return Prompt(inputs["input_ids"][0].to(self._network.device), given, most_frames)

    def _encode(self, samples: Samples) -> Tensor:
        """Make rows of a recording: what the processor gives to the decoder, whatever the text."""
        rate_hz = self._processor.feature_extractor.sampling_rate
        # Audio is padded to whole frames; to pad the text, too, makes the library warn that there is nothing to pad to.
        inputs = self._processor(
            text=["[S1]"],
            audio=[samples],
            text_kwargs={"padding": False},
            audio_kwargs={"sampling_rate": rate_hz},
            return_tensors="pt",
        )
        rows: Tensor = inputs["decoder_input_ids"][0].long().to(self._network.device)
        return rows

    def _room(self, given: Tensor) -> int:
        """Frames for which there are rows after those of a prompt; a row more ends them, and then come the delays."""
        taken = len(given) - 1 - self._longest_delay
        return self._num_rows - taken - self._longest_delay - 1

    def _longest_piece(self, reference: Reference, given: Tensor) -> int:
        """Characters that can follow a recording: spoken slowly they end within the model's rows and bytes.

        Raises:
            UnsupportedOption: They are too few.
        """
        room_s = self._room(given) / self._frame_rate_hz
        by_rows = int(
            room_s / self._limits.patience_s_per_char * 3
        )  # What is allowed is thrice what slow speech takes.
        tags = len("[S1]  [S1] ")
        bytes_taken = len(_tagged(reference.transcript).encode()) + tags
        by_bytes: int = self._network.model.config.encoder_config.max_position_embeddings - bytes_taken
        longest = min(self._limits.longest, by_rows, by_bytes)
        if longest < SHORTEST_PIECE:
            recording_s = len(reference.samples) / reference.sample_rate_hz
            raise UnsupportedOption(
                f"the voice {reference.voice!r} is too long for the model: {recording_s:.1f} s and a transcript of "
                f"{len(reference.transcript)} characters leave no room for the text; a shorter recording would",
                field="voice",
            )
        return longest


def _codec_name(checkpoint: Checkpoint) -> str:
    """The codec's repository: transformers once wrote it to a file of its own, now to the processor's."""
    for file in ("audio_tokenizer_config.json", "processor_config.json"):
        path = checkpoint.folder / file
        config = json.loads(path.read_text()) if path.exists() else {}
        if name := config.get("audio_tokenizer", config).get("audio_tokenizer_name_or_path"):
            return str(name)
    raise UnsupportedModel(
        f"{checkpoint.name!r} does not say which codec its tokens are of; processor_config.json would name it",
        field="model",
    )


def _num_rows(model: Any) -> int:  # noqa: ANN401
    """Rows after which the model stops by itself."""
    config = model.generation_config
    # To a `max_length` of the checkpoint the library adds the delays.
    longest: int = config.max_length or model.config.decoder_config.max_position_embeddings
    return int(config.max_new_tokens or longest + max(model.config.delay_pattern))


def _tagged(text: str) -> str:
    """Put text on one line, and give it to a speaker if it names none."""
    spoken = " ".join(text.split())
    return spoken if _TAG.match(spoken) else f"[S1] {spoken}"


def _is_latin(char: str) -> bool:
    return char.isascii() or unicodedata.name(char, "").startswith("LATIN")


def _options(config: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    """Describe what a request may set, with the checkpoint's own values as defaults."""
    return {
        "guidance_scale": {
            "type": "number",
            "minimum": 1,
            "maximum": 10,
            "default": config.guidance_scale or 1.0,
            "description": "how closely the speech follows the text (classifier-free guidance); 1 is off",
        },
        "temperature": {
            "type": "number",
            "minimum": 1,
            "maximum": 3,
            "default": max(1.0, config.temperature or 1.0),
            "description": "liveliness; the model knows no temperature under 1",
        },
        "top_p": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
            "default": config.top_p or 1.0,
            "description": "share of the probability that tokens are drawn from",
        },
        "top_k": {
            "type": "integer",
            "minimum": FEWEST_TOKENS,
            "maximum": 1024,
            "default": config.top_k or 50,
            "description": "number of the likeliest tokens that are drawn from",
        },
    }
