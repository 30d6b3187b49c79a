"""Engine `vibevoice`: speech from a language model with a diffusion head, frame by frame; knows no scheduling.

VibeVoice (Peng et al. 2025) makes one latent of 3200 samples (133 ms) per step: the language model says that there is
more to come, the diffusion head samples the latent, and a causal decoder turns it into samples, which feed back into
the language model. The decoder keeps its own past, so every frame is final when it is made. All of it is done for
several utterances at once (`vibevoice_network`).

Without a recording to imitate, VibeVoice invents its voices: which one follows from the seed and from the number of
the speaker in the prompt. With one, the prompt begins with the latents of the recording, and a little noise is added to
them as in training. It was trained on English and Chinese.
"""

from __future__ import annotations

import json
import math
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
)
from worker.engines.recordings import Reading, Recordings, Request
from worker.engines.stages import Speech
from worker.engines.stepwise import TorchEngine, from_disk, place
from worker.engines.vibevoice_network import Line, Network
from worker.errors import UnspeakableText, UnsupportedModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NUM_SPEAKERS = 4
"""Speakers that the model was trained to tell apart in a dialogue."""

WRONG_LAYOUT = (
    "it is in the layout of Microsoft's own code, whose weights transformers cannot load; take a converted repository, "
    "such as 'vibevoice/VibeVoice-1.5B-hf'"
)

# The quotation marks as the model's own demo gives them, and no marks that the tokenizer takes for control tokens.
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"'})


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
            UnsupportedModel: It is not in the layout of transformers, or its noise scheduler cannot be used.
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
        latents: [1, T, D] on the device: what the encoder makes of it.
    """

    samples: Samples
    latents: Tensor


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the network begins with.

    Attributes:
        embedded: [T, H] on the device.
        noise: Random numbers for the frames, on the CPU.
    """

    embedded: Tensor
    noise: torch.Generator


class VibeVoiceModel(Model):
    """Speaks English and Chinese.

    Args:
        model: `VibeVoiceForConditionalGeneration`.
        processor: `VibeVoiceProcessor`.
        revision: Of the checkpoint.
        device: Where the model is.

    Raises:
        UnsupportedModel: Its noise scheduler cannot be used.
    """

    # Frames stream at once, so a first segment has no need to be short; and a voice is kept within a segment only.
    limits = SegmentLimits(first=800, longest=800, joins=True)
    languages = ("en", "zh")
    is_staged = True

    def __init__(self, model: Any, processor: Any, revision: str, device: str) -> None:  # noqa: ANN401
        self._model = model
        self._network = Network(model, device)
        self.slots = self._network.num_slots
        self._samples_per_frame: int = math.prod(model.config.audio_config.downsampling_ratios)
        self._read = VibeVoiceReading(self._network, processor)
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

    def speak(self, text: str, index: int, settings: Settings) -> Speech:
        """Speak one segment, a frame at a time.

        All segments start from the utterance's seed, on which the voice depends; so does the noise that is added to a
        recording.
        """
        network, trimmer = self._network, Trimmer(self.card.sample_rate_hz)
        prompt = yield from self._read(Request(text, settings))
        options = {name: settings.options.get(name, option["default"]) for name, option in self.card.options.items()}
        slot = network.slots.take()
        try:
            line = Line(
                slot,
                prompt.embedded,
                self._most_tokens(text, settings, len(prompt.embedded)),
                prompt.noise,
                options["guidance_scale"],
                options["num_diffusion_steps"],
            )
            yield from network.prefill(line)
            while line.tokens_left:
                samples = yield from network.step(line)
                if len(samples):
                    yield trimmer.feed(samples)
        finally:
            network.slots.give_back(slot)
        yield trimmer.flush()

    def _most_tokens(self, text: str, settings: Settings, num_read: int) -> int:
        """Tokens after which the model is made to stop: past the longest for the text, or where it stops by itself."""
        bound_s = self.limits.bound_s(text, settings.speed)
        bound = math.ceil(bound_s * self.card.sample_rate_hz / self._samples_per_frame)
        own: int = self._model.generation_config.max_new_tokens or bound
        return max(0, min(own, bound, self._network.past.longest - num_read))


class VibeVoiceReading(Reading[Prompt]):
    """Makes prompts of texts, and of the recordings that come before them.

    Args:
        network: Embeds the prompts.
        processor: `VibeVoiceProcessor`.
    """

    def __init__(self, network: Network, processor: Any) -> None:  # noqa: ANN401
        self._model, self._device, self._processor = network.model, network.device, processor
        self._sample_rate_hz: int = processor.feature_extractor.sampling_rate
        self._recordings = Recordings(self._sample_rate_hz, self._encode)

    def prompt(self, text: str, settings: Settings) -> Prompt:
        """Make a prompt; the same for the same seed."""
        import torch

        spoken = " ".join(text.translate(_PLAIN).replace("<|", "< |").split())
        speaker = settings.voice.removeprefix("speaker-")
        content: list[dict[str, Any]] = [{"type": "text", "text": spoken}]
        recording = self._recordings.read(settings.reference) if settings.reference else None
        if recording:
            content.append({"type": "audio", "audio": recording.samples})
        conversation = [{"role": speaker, "content": content}]
        inputs = self._processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
        ids = inputs["input_ids"][0].to(self._device)
        embedded: Tensor = self._model.get_input_embeddings()(ids)
        noise = torch.Generator().manual_seed(settings.seed)
        if recording:
            is_heard = ids == self._model.config.audio_token_id
            # As in the library: the noise of frames is drawn on the CPU, that of a recording where the model is.
            own = noise if self._device == "cpu" else torch.Generator(self._device).manual_seed(settings.seed)
            embedded[is_heard] = self._hear(recording.latents, own)[: int(is_heard.sum())]
        return Prompt(embedded, noise)

    def _encode(self, samples: Samples) -> Recording:
        tower = self._model.model.audio_tower
        heard = self._processor.feature_extractor(samples, sampling_rate=self._sample_rate_hz)
        return Recording(samples, tower.encoder(heard["input_values"].to(tower.device, tower.dtype)).latents)

    def _hear(self, latents: Tensor, noise: torch.Generator) -> Tensor:
        """Embed the latents of a recording, [1, T, D] to [T, H], with noise of a strength that is drawn too."""
        import torch

        model, vae_std = self._model.model, self._model.config.audio_config.vae_std
        strength = vae_std * torch.randn(1, generator=noise, device=latents.device, dtype=latents.dtype)
        noisy = latents + strength[:, None, None] * torch.empty_like(latents).normal_(generator=noise)
        embedded: Tensor = model.multi_modal_projector((noisy + model.latent_bias_factor) * model.latent_scaling_factor)
        return embedded[0]


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
