"""Engine `csm`: Sesame's conversational speech model, which writes codec frames one by one; knows no scheduling.

A backbone (a Llama) samples the first code of a frame, a small depth decoder the other 31 from it, and Mimi turns each
frame into 80 ms of audio as soon as it is there (`seanet`).

The model has no fixed voices. Its text begins with the number of the speaker (`[0]`), which tells the parties of a
conversation apart; what a number sounds like follows from the conversation before it, and where there is none, from
the random numbers. So the voices `speaker-0` to `speaker-9` are ten such numbers (conversations of two have 0 and 1,
which the model knows best), and one keeps its sound only for as long as the seed is the same. A recording that is to
be imitated is the turn before, spoken by the same number.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from worker.engines.recordings import Recordings
from worker.engines.seanet import SeanetStream
from worker.engines.stepwise import Noise, TorchEngine, from_disk, place, seed_of, stepwise
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
class Recording:
    """A recording, as the model takes it.

    Attributes:
        samples: float32 [S] at the codec's rate; the processor counts its frames.
        codes: int64 [1, codebooks, T] on the device: what the codec makes of it.
    """

    samples: Samples
    codes: Tensor


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

    def __init__(self, model: Any, processor: Any, revision: str, device: str) -> None:  # noqa: ANN401
        SeanetStream(model.codec_model.decoder)  # Refuses a codec that looks ahead.
        self._model, self._processor, self._device = model, processor, device
        self._frame_rate_hz: float = model.config.codec_config.frame_rate
        self._controls = [token for token in processor.tokenizer.get_added_vocab() if token.strip()]
        self.card = Card(
            sample_rate_hz=model.config.codec_config.sampling_rate,
            voices=[Voice(f"speaker-{number}", f"Speaker {number}", "en") for number in range(SPEAKERS)],
            revision=revision,
            options=_options(model),
            cloning="audio and transcript",
        )
        self._recordings = Recordings(self.card.sample_rate_hz, self._encode)

    def check(self, text: str, voice: str) -> None:
        """Refuse text with nothing to say, and the tokens that structure a conversation; all else can be written.

        Raises:
            UnspeakableText: Names the tokens.
        """
        if tokens := [token for token in self._controls if token in text]:
            raise UnspeakableText(f"the model takes {quote(tokens)} for an order and cannot say it", field="input")
        if not any(char.isalnum() for char in text):
            raise UnspeakableText(f"there is nothing to say in {text.strip()[:40]!r}", field="input")

    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        """Speak one segment; every step is a frame of 80 ms.

        All segments start from the utterance's seed, since that is what a speaker depends on where no recording says
        how it sounds.
        """
        recording = yield from self._recordings.of(settings.reference)
        trimmer = Trimmer(self.card.sample_rate_hz)
        decoding = SeanetStream(self._model.codec_model.decoder)
        noise = Noise(seed_of(settings, index if recording else 0), self._device)
        for codes in stepwise(partial(self._generate, text, settings, recording=recording), noise):
            latents = self._model.codec_model.quantizer.decode(codes.to(self._device)[:, :, None])
            yield trimmer.feed(decoding.push(latents)[0, 0].float().cpu().numpy())
        yield trimmer.flush()

    def _encode(self, samples: Samples) -> Recording:
        import torch

        codec = self._model.codec_model
        heard = torch.from_numpy(samples)[None, None].to(codec.device, codec.dtype)
        return Recording(samples, codec.encode(heard).audio_codes)

    def _generate(
        self, text: str, settings: Settings, emit: Callable[[Tensor], None], recording: Recording | None = None
    ) -> None:
        """Run the library's generation; `emit` gets int64 [1, codebooks] for each frame."""
        role = settings.voice.removeprefix("speaker-")
        turns: list[dict[str, Any]] = [{"role": role, "content": [{"type": "text", "text": text}]}]
        if settings.reference and recording:
            said = {"type": "text", "text": self._plain(settings.reference.transcript)}
            turns.insert(0, {"role": role, "content": [said, {"type": "audio", "audio": recording.samples}]})
        prompt = self._processor.apply_chat_template(turns, tokenize=True, return_dict=True).to(self._device)
        longest = math.ceil(self.limits.bound_s(text, settings.speed) * self._frame_rate_hz)
        taken, positions = prompt["input_ids"].shape[1], self._model.config.max_position_embeddings
        # Slow speech takes a third of what is allowed.
        if settings.reference and positions - taken < longest / 3:
            raise UnsupportedOption(
                f"the voice {settings.reference.voice!r} is too long for the model: its recording and transcript leave "
                f"no room for the text ({taken} of {positions} positions); a shorter transcript would",
                field="voice",
            )
        model = _with_own_settings(self._model)
        if recording:
            # Hides the codec, which `generate` would ask again for every segment. No module, so not among these.
            vars(model)["codec_model"] = _Encoded(model.codec_model, recording.codes)
        model.generate(
            **prompt,
            **_arguments(settings.options),
            max_new_tokens=min(longest, positions - taken),
            streamer=_Frames(emit, self._model.config.codebook_eos_token_id),
        )

    def _plain(self, transcript: str) -> str:
        """Take out of a transcript what the model would take for an order; nothing of it is spoken."""
        for token in self._controls:
            transcript = transcript.replace(token, " ")
        return " ".join(transcript.split())


class _Encoded:
    """Stands for a codec that has encoded the recording already; it is also the result of that.

    Args:
        codec: `MimiModel`.
        codes: int64 [1, codebooks, T].
    """

    def __init__(self, codec: Any, codes: Tensor) -> None:  # noqa: ANN401
        self.audio_codes = codes
        self.get_audio_codes_mask = codec.get_audio_codes_mask

    def encode(self, _samples: Tensor) -> _Encoded:
        """Give what was made of the recording."""
        return self


class _Frames:
    """What `generate` hands its output to: first the prompt, then every frame.

    Args:
        emit: Gets the frames.
        end: Code of which the frame consists that says that the speech is over, and that is not decoded.
    """

    def __init__(self, emit: Callable[[Tensor], None], end: int) -> None:
        self._emit, self._end = emit, end
        self._has_begun = False

    def put(self, codes: Tensor) -> None:
        """Take int64 [1, codebooks], or the prompt."""
        if self._has_begun and not bool((codes == self._end).all()):
            self._emit(codes)
        self._has_begun = True

    def end(self) -> None:
        """Nothing is held back."""


def _with_own_settings(model: Any) -> Any:  # noqa: ANN401
    """Copy a model without its weights, so that no other utterance changes how its depth decoder samples.

    `generate` writes the options of the depth decoder into the decoder, and reads them again for every frame.
    """
    mine = copy.copy(model)
    mine._modules = dict(model._modules)
    mine.depth_decoder = copy.copy(model.depth_decoder)
    mine.depth_decoder.generation_config = copy.deepcopy(model.depth_decoder.generation_config)
    return mine


def _arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the card's options into what `generate` calls them."""
    return {name.replace("depth_", "depth_decoder_"): value for name, value in options.items()}


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
            "default": defaults.top_k or 50,  # What `generate` takes where the checkpoint says nothing.
            "description": f"how many likeliest values are drawn from for {what}",
        }
    return options
