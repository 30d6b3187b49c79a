"""Engine `vibevoice`: speech from a language model with a diffusion head, frame by frame; knows no scheduling.

VibeVoice (Peng et al. 2025) makes one latent of 3200 samples (133 ms) per step: the language model says that there is
more to come, the diffusion head samples the latent, and a causal decoder turns it into samples, which feed back into
the language model. The decoder keeps its own past, so every frame is final when it is made.

Without a recording to imitate, VibeVoice invents its voices: which one follows from the seed and from the number of
the speaker in the prompt. With one, the prompt begins with the latents of the recording, and a little noise is added to
them as in training. It was trained on English and Chinese.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
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
)
from worker.engines.recordings import Recordings
from worker.engines.stepwise import Noise, TorchEngine, from_disk, place, stepwise
from worker.errors import UnspeakableText, UnsupportedModel

if TYPE_CHECKING:
    import torch

NUM_SPEAKERS = 4
"""Speakers that the model was trained to tell apart in a dialogue."""

WRONG_LAYOUT = (
    "it is in the layout of Microsoft's own code, whose weights transformers cannot load; take a converted repository, "
    "such as 'vibevoice/VibeVoice-1.5B-hf'"
)

# The quotation marks as the model's own demo gives them, and no marks that the tokenizer takes for control tokens.
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"'})

_emit: ContextVar[Callable[[torch.Tensor], None]] = ContextVar("emit")
"""Takes the frames of the utterance whose coroutine is running: each coroutine has a context of its own."""

_encoded: ContextVar[Any] = ContextVar("encoded", default=None)
"""What the encoder has made of the recording that the utterance imitates; None if it is to be asked."""


class VibeVoiceEngine(TorchEngine):
    """Runs `vibevoice/VibeVoice-1.5B-hf` and its like, in the layout of transformers."""

    name = "vibevoice"
    requires = (*TorchEngine.requires, "diffusers")

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """By the model type, which the repositories in Microsoft's layout share."""
        return model.model_type == "vibevoice"

    @classmethod
    def refuse(cls, model: HubModel) -> str:
        """Refuse Microsoft's layout: it has neither a tokenizer nor the configuration of a processor."""
        if model.files and "processor_config.json" not in model.files:
            return WRONG_LAYOUT
        return super().refuse(model)

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> VibeVoiceModel:
        """Load the model.

        Raises:
            UnsupportedModel: It is not in the layout of transformers.
        """
        # Out of any other configuration transformers would make a model with random weights.
        if "audio_config" not in json.loads((checkpoint.folder / "config.json").read_text()):
            raise UnsupportedModel(f"{checkpoint.name!r} cannot be loaded: {WRONG_LAYOUT}", field="model")
        import transformers

        library: Any = transformers  # Which is typed in parts only.
        model = from_disk(library.VibeVoiceForConditionalGeneration, checkpoint.folder, device)
        processor = library.VibeVoiceProcessor.from_pretrained(checkpoint.folder, local_files_only=True)
        return VibeVoiceModel(place(model, device), processor, checkpoint.revision, device)


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording, as the model takes it.

    Attributes:
        samples: float32 [S] at the model's rate; the processor counts its frames.
        encoded: What the encoder makes of it, with `latents` [1, T, D] on the device.
    """

    samples: Samples
    encoded: Any


class VibeVoiceModel(Model):
    """Speaks English and Chinese.

    Args:
        model: `VibeVoiceForConditionalGeneration`; its methods that sample, decode and encode latents are wrapped.
        processor: `VibeVoiceProcessor`.
        revision: Of the checkpoint.
        device: Where the model is.
    """

    # Frames stream at once, so a first segment has no need to be short; and a voice is kept within a segment only.
    limits = SegmentLimits(first=800, longest=800, joins=True)
    languages = ("en", "zh")

    def __init__(self, model: Any, processor: Any, revision: str, device: str) -> None:  # noqa: ANN401
        self._model, self._processor, self._device = model, processor, device
        self._samples_per_frame: int = math.prod(model.config.audio_config.downsampling_ratios)
        model._sample_audio_latent = partial(_sample_quietly, model._sample_audio_latent)
        model._decode_audio_latent = partial(_decode_and_emit, model._decode_audio_latent)
        encoder = model.model.audio_tower.encoder
        encoder.forward = partial(_encode_once, encoder.forward)
        self._recordings = Recordings(processor.feature_extractor.sampling_rate, self._encode)
        self.card = Card(
            sample_rate_hz=processor.feature_extractor.sampling_rate,
            voices=[Voice(f"speaker-{number}", f"Speaker {number}", "en") for number in range(NUM_SPEAKERS)],
            revision=revision,
            options=_options(model.generation_config),
            cloning="audio",
        )

    def check(self, text: str, voice: str) -> None:
        """Refuse text without a letter or digit; the tokenizer knows those of every script.

        Raises:
            UnspeakableText: There is nothing to say.
        """
        if not any(char.isalnum() for char in text):
            raise UnspeakableText(f"there is nothing to say in {text.strip()[:40]!r}", field="input")

    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        """Speak one segment; every step is one frame.

        All segments start from the utterance's seed, on which the voice depends; so does the noise that is added to a
        recording.
        """
        recording = yield from self._recordings.of(settings.reference)
        trimmer = Trimmer(self.card.sample_rate_hz)
        call = partial(self._generate, text, settings, recording)
        for frame in stepwise(call, Noise(settings.seed, self._device)):
            yield trimmer.feed(frame.float().cpu().numpy())
        yield trimmer.flush()

    def _encode(self, samples: Samples) -> Recording:
        tower = self._model.model.audio_tower
        heard = self._processor.feature_extractor(samples, sampling_rate=self.card.sample_rate_hz)
        return Recording(samples, tower.encoder(heard["input_values"].to(tower.device, tower.dtype)))

    def _generate(
        self, text: str, settings: Settings, recording: Recording | None, emit: Callable[[torch.Tensor], None]
    ) -> None:
        _emit.set(emit)
        spoken = " ".join(text.translate(_PLAIN).replace("<|", "< |").split())
        speaker = settings.voice.removeprefix("speaker-")
        content: list[dict[str, Any]] = [{"type": "text", "text": spoken}]
        if recording:
            _encoded.set(recording.encoded)
            content.append({"type": "audio", "audio": recording.samples})
        conversation = [{"role": speaker, "content": content}]
        inputs = self._processor.apply_chat_template(
            conversation, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self._device)
        most_tokens = self._most_tokens(text, settings)
        self._model.generate(**inputs, **settings.options, max_new_tokens=most_tokens)

    def _most_tokens(self, text: str, settings: Settings) -> int:
        """Tokens after which the model is made to stop: past the longest for the text, or where it stops by itself."""
        bound_s = self.limits.bound_s(text, settings.speed)
        bound = math.ceil(bound_s * self.card.sample_rate_hz / self._samples_per_frame)
        own: int = self._model.generation_config.max_new_tokens or bound
        return min(own, bound)


def _sample_quietly(sample: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Sample a latent without a warning: numpy deprecates how diffusers makes arrays of tensors, for every frame."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        return sample(*args, **kwargs)


def _decode_and_emit(decode: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Decode latents of one row, [1, 1, D], and hand their samples over, [3200]."""
    output = decode(*args, **kwargs)
    _emit.get()(output.audio[0].flatten())
    return output


def _encode_once(encode: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Encode a recording, or give what came of that before; a copy, into which the library writes its noise."""
    encoded = _encoded.get()
    return encode(*args, **kwargs) if encoded is None else replace(encoded)


def _options(config: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    """Describe what a request may set, with the checkpoint's own values as defaults."""
    return {
        "guidance_scale": {
            "type": "number",
            "minimum": 1,
            "maximum": 5,
            "default": config.guidance_scale or 1.0,
            "description": "how closely the speech follows the text (classifier-free guidance); 1 is off",
        },
        "num_diffusion_steps": {
            "type": "integer",
            "minimum": 1,
            "maximum": 50,
            "default": getattr(config, "num_diffusion_steps", None) or 10,
            "description": "steps that each frame is refined in; more take longer",
        },
    }
