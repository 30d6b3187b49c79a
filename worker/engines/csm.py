"""Engine `csm`: Sesame's conversational speech model, which writes codec frames one by one; knows no scheduling.

A backbone (a Llama) samples the first code of a frame, a small depth decoder the other 31 from it, and Mimi turns
frames into sound, 80 ms each. All of it is done for several utterances at once (`csm_network`).

The model has no fixed voices. Its text begins with the number of the speaker (`[0]`), which tells the parties of a
conversation apart; what a number sounds like follows from the conversation before it, and where there is none, from
the random numbers. So the voices `speaker-0` to `speaker-9` are ten such numbers (conversations of two have 0 and 1,
which the model knows best), and one keeps its sound only for as long as the seed is the same. A recording that is to
be imitated is the turn before, spoken by the same number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.audio import Trimmer
from worker.engines.base import (
    Card,
    Checkpoint,
    HubModel,
    Model,
    Samples,
    SegmentLimits,
    Settings,
    Voice,
    transformers_files,
)
from worker.engines.csm_network import Line, Network
from worker.engines.recordings import Reading, Recordings, Request
from worker.engines.sampling import Draws, Sampling
from worker.engines.stages import Speech
from worker.engines.stepwise import TorchEngine, from_disk, place, seed_of
from worker.errors import UnspeakableText, UnsupportedOption
from worker.text.phonemes import quote

if TYPE_CHECKING:
    from torch import Tensor

SPEAKERS = 10


class CsmEngine(TorchEngine):
    """Runs `sesame/csm-1b` and its fine-tunes, in the layout of transformers."""

    name = "csm"

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """By the architecture: the repositories of the original code have other weights and no such entry."""
        return "CsmForConditionalGeneration" in model.architectures

    @classmethod
    def files(cls, model: HubModel) -> Sequence[str]:
        """The weights of transformers; `sesame/csm-1b` has those of the original code beside them, 12 GB in all."""
        if any(path.startswith("transformers") and path.endswith(".safetensors") for path in model.files):
            return ("*.json", "*.jinja", "transformers*.safetensors")
        return transformers_files(model)

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> CsmModel:
        """Load the model, which holds its codec."""
        from transformers import AutoProcessor, CsmForConditionalGeneration

        model = from_disk(CsmForConditionalGeneration, checkpoint.folder, device)
        processor = AutoProcessor.from_pretrained(checkpoint.folder, local_files_only=True)
        return CsmModel(place(model, device), processor, checkpoint.revision, device)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the network begins with.

    Attributes:
        embedded: [T, H] on the device.
        most_frames: How many frames may follow.
    """

    embedded: Tensor
    most_frames: int


class CsmModel(Model):
    """Speaks English, alone or after a recording.

    Args:
        model: `CsmForConditionalGeneration`.
        processor: `CsmProcessor`.
        revision: Of the checkpoint.
        device: Where the model is.
    """

    # Frames stream at once, so a first segment has no need to be short; and a speaker is kept within a segment only.
    limits = SegmentLimits(first=400, longest=400, joins=True)
    is_staged = True

    def __init__(self, model: Any, processor: Any, revision: str, device: str) -> None:  # noqa: ANN401
        self._model, self._device = model, device
        self._network = Network(model, device)
        self.slots = self._network.num_slots
        self._controls = [token for token in processor.tokenizer.get_added_vocab() if token.strip()]
        self.card = Card(
            sample_rate_hz=model.config.codec_config.sampling_rate,
            voices=[Voice(f"speaker-{number}", f"Speaker {number}", "en") for number in range(SPEAKERS)],
            revision=revision,
            options=_options(model),
            cloning="audio and transcript",
        )
        self._read = CsmReading(self._network, processor, self.limits, self._controls)

    def check(self, text: str, voice: str) -> None:
        """Refuse text with nothing to say, and the tokens that structure a conversation; all else can be written.

        Raises:
            UnspeakableText: Names the tokens.
        """
        if tokens := [token for token in self._controls if token in text]:
            raise UnspeakableText(f"the model takes {quote(tokens)} for an order and cannot say it", field="input")
        if not any(char.isalnum() for char in text):
            raise UnspeakableText(f"there is nothing to say in {text.strip()[:40]!r}", field="input")

    def speak(self, text: str, index: int, settings: Settings) -> Speech:
        """Speak one segment, a frame of 80 ms at a time.

        All segments start from the utterance's seed, since that is what a speaker depends on where no recording says
        how it sounds.
        """
        network, trimmer = self._network, Trimmer(self.card.sample_rate_hz)
        prompt = yield from self._read(Request(text, settings))
        options = {name: settings.options.get(name, option["default"]) for name, option in self.card.options.items()}
        slot = network.slots.take()
        try:
            line = Line(
                slot,
                prompt.embedded,
                prompt.most_frames,
                Draws(seed_of(settings, index if settings.reference else 0), self._device),
                Sampling(options["temperature"], options["top_k"]),
                Sampling(options["depth_temperature"], options["depth_top_k"]),
            )
            yield from network.prefill(line)
            while line.frames_left:
                yield from network.step(line)
                if line.frames:
                    samples = yield from network.decode(line)
                    yield trimmer.feed(samples)
        finally:
            network.slots.give_back(slot)
        yield trimmer.flush()


class CsmReading(Reading[Prompt]):
    """Makes prompts of texts, and of the recordings that come before them.

    Args:
        network: Embeds the prompts.
        processor: `CsmProcessor`.
        limits: How long a segment may be.
        controls: Tokens that structure a conversation.
    """

    def __init__(self, network: Network, processor: Any, limits: SegmentLimits, controls: Sequence[str]) -> None:  # noqa: ANN401
        self._network, self._processor = network, processor
        self._limits, self._controls = limits, controls
        self._config = network.model.config
        self._recordings = Recordings(self._config.codec_config.sampling_rate, self._encode)

    def prompt(self, text: str, settings: Settings) -> Prompt:
        """Make a prompt.

        Raises:
            UnsupportedOption: The recording leaves no room for the text.
        """
        reference, role = settings.reference, settings.voice.removeprefix("speaker-")
        turns: list[dict[str, Any]] = [{"role": role, "content": [{"type": "text", "text": text}]}]
        codes = None
        if reference:
            codes = self._recordings.read(reference)
            said = {"type": "text", "text": self._plain(reference.transcript)}
            turns.insert(0, {"role": role, "content": [said, {"type": "audio"}]})
        ids = self._tokenize(turns, 0 if codes is None else len(codes))
        longest = math.ceil(self._limits.bound_s(text, settings.speed) * self._config.codec_config.frame_rate)
        taken, positions = len(ids), self._config.max_position_embeddings
        # Slow speech takes a third of what is allowed.
        if reference and positions - taken < longest / 3:
            raise UnsupportedOption(
                f"the voice {reference.voice!r} is too long for the model: its recording and transcript leave "
                f"no room for the text ({taken} of {positions} positions); a shorter transcript would",
                field="voice",
            )
        return Prompt(self._embed(ids, codes), max(0, min(longest, positions - taken)))

    def _tokenize(self, turns: list[dict[str, Any]], num_frames: int) -> Tensor:
        """Write a conversation as int64 [T] on the device, with a token for each frame of its recording."""
        written = self._processor.apply_chat_template(turns, tokenize=False)
        audio = self._processor.audio_token
        written = written.replace(audio, audio * num_frames)
        ids: Tensor = self._processor.tokenizer(written, add_special_tokens=False, return_tensors="pt").input_ids
        return ids[0].to(self._network.device)

    def _embed(self, ids: Tensor, codes: Tensor | None) -> Tensor:
        """Embed a prompt, [T, H]: its text, and its recording, after which comes the frame that ends speech."""
        embedded: Tensor = self._network.model.embed_text_tokens(ids)
        if codes is not None:
            embedded[ids == self._config.audio_token_id] = self._network.embed(codes)
            end = codes.new_full((1, codes.shape[1]), self._config.codebook_eos_token_id)
            embedded[ids == self._config.audio_eos_token_id] = self._network.embed(end)
        return embedded

    def _encode(self, samples: Samples) -> Tensor:
        """Make frames of a recording, int64 [T, codebooks] on the device."""
        import torch

        codec = self._network.model.codec_model
        heard = torch.from_numpy(samples)[None, None].to(codec.device, codec.dtype)
        codes: Tensor = codec.encode(heard).audio_codes[0].T
        return codes

    def _plain(self, transcript: str) -> str:
        """Take out of a transcript what the model would take for an order; nothing of it is spoken."""
        for token in self._controls:
            transcript = transcript.replace(token, " ")
        return " ".join(transcript.split())


def _options(model: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    options: dict[str, dict[str, Any]] = {}
    stages = {
        "": (model.generation_config, "the first code of a frame: words, pace and melody"),
        "depth_": (model.depth_decoder.generation_config, "the other codes of a frame: timbre and detail"),
    }
    for prefix, (defaults, what) in stages.items():
        options[f"{prefix}temperature"] = {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 2,
            "default": defaults.temperature or 1.0,
            "description": f"randomness of {what}",
        }
        options[f"{prefix}top_k"] = {
            "type": "integer",
            "minimum": 1,
            "maximum": model.config.vocab_size,
            # What `generate` takes where the checkpoint says nothing; 1 is what its greedy search is.
            "default": (defaults.top_k or 50) if defaults.do_sample else 1,
            "description": f"how many likeliest values are drawn from for {what}",
        }
    return options
