"""Engine `pocket`: Kyutai's Pocket TTS and Gradium's Phonon, continuous audio language models; knows no scheduling.

A causal transformer reads a voice and a text and makes one latent per frame of 80 ms; a flow head draws it from noise,
and the codec turns it into audio at once (Rouard et al. 2025, "Continuous Audio Language Models"; the codec is Mimi
without its quantizer, see `seanet`). Phonon differs in what its voices consist of, and in that it was made for text
that is spelled out.

Voices come as files of safetensors, in a folder `voices` or `embeddings` or as `default-voice.safetensors`:

    audio_prompt_latents  [T, D]     what the codec makes of a recording, as transformers takes it
    speaker_wavs          [1, D, T]  the same, as Gradium's runtime takes it
    keys and values, a pair of [1, H, T, E] for each layer: what the transformer makes of the voice

Where a repository lists several languages (Phonon), every voice speaks each of them: `default` the first, `default-fr`
French. The languages differ in how numbers are read.

Pocket TTS imitates recordings: its codec makes latents of them. Its makers have a codec without the half that encodes,
too, and with that it imitates none; nor does Phonon, whose voices are made by a codec that is not published.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.audio import Trimmer
from worker.engines.base import (
    Card,
    Checkpoint,
    HubModel,
    Model,
    Part,
    Samples,
    SegmentLimits,
    Settings,
    Voice,
)
from worker.engines.recordings import Recordings
from worker.engines.seanet import SeanetStream
from worker.engines.stepwise import Noise, TorchEngine, from_disk, place, seed_of, stepwise
from worker.errors import UnspeakableText, UnsupportedModel
from worker.text.normalise import normalise
from worker.text.phonemes import quote

if TYPE_CHECKING:
    from torch import Tensor

ARCHITECTURES = ("PocketTTSForConditionalGeneration", "GradiumPhononTTSForConditionalGeneration")

VOICE_FILES = ("voices/*.safetensors", "embeddings/*.safetensors", "default-voice.safetensors")
"""In the order in which Gradium's runtime looks for them: of two voices of one name, it takes the first."""

FIRST_VOICES = ("default", "alba")
"""What the makers of the models take where no voice is named."""

_LAYER = re.compile(r"(?<!\d)(\d+)(?!\d)")


class PocketEngine(TorchEngine):
    """Runs `kyutai/pocket-tts` and `gradium/phonon-31m-en` and their like, in the layout of transformers."""

    name = "pocket"

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """By the architecture: conversions for other runtimes keep the `model_type`."""
        return any(name in model.architectures for name in ARCHITECTURES)

    @classmethod
    def files(cls, model: HubModel) -> Sequence[str]:
        """Model, voices, and the model card for its languages; not the conversions for other runtimes."""
        return ("*.json", "*.jinja", "tokenizer.model", "model*.safetensors", *VOICE_FILES, "README.md")

    @classmethod
    def parts(cls, checkpoint: Checkpoint) -> Sequence[Part]:
        """The codec, which the processor's configuration names."""
        return (Part(_codec_name(checkpoint), files=("config.json", "*.safetensors")),)

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> PocketModel:
        """Load the model, its codec and its voices.

        Raises:
            UnsupportedModel: There is no voice, or one in a form that is not known.
        """
        from transformers import AutoModelForTextToWaveform, PocketTTSAudioTokenizerModel

        model = from_disk(AutoModelForTextToWaveform, checkpoint.folder, device)
        folder = checkpoint.parts[_codec_name(checkpoint)]
        half = {} if _can_encode(folder) else {"encoder_config": None}
        codec = from_disk(PocketTTSAudioTokenizerModel, folder, device, **half)
        prompts = _load_voices(checkpoint, place(model, device))
        processor = _load_processor(checkpoint, place(codec, device))
        return PocketModel(model, processor, prompts, checkpoint, device)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A voice, as the model takes it; one of the two is there.

    Attributes:
        latents: float32 [T, D] on the CPU.
        layers: Keys and values of each layer, both [1, H, T, E] on the device.
    """

    latents: Tensor | None = None
    layers: Sequence[tuple[Tensor, Tensor]] = ()


class PocketModel(Model):
    """Speaks with the voices of its repository.

    Args:
        model: `PocketTTSForConditionalGeneration` or `GradiumPhononTTSForConditionalGeneration`.
        processor: `PocketTTSProcessor` with a codec.
        prompts: The voices, by their names.
        checkpoint: Where they are from.
        device: Where the model and the codec are.
    """

    # The models are made for pieces of up to 50 tokens, some 4 characters each; frames stream at once, so a first
    # segment has no need to be short.
    limits = SegmentLimits(first=180, longest=180)

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        processor: Any,  # noqa: ANN401
        prompts: Mapping[str, Prompt],
        checkpoint: Checkpoint,
        device: str,
    ) -> None:
        self._model, self._processor, self._device = model, processor, device
        self._codec = processor.audio_tokenizer
        SeanetStream(self._codec.decoder)  # Refuses a codec that looks ahead.
        self._spells_out = model.config.model_type == "gradium_phonon_tts"
        self._controls = [token for token in processor.tokenizer.get_added_vocab() if token.strip()]
        languages = _languages(checkpoint.folder) or ["en"]
        if not self._spells_out:
            languages = languages[:1]  # Kyutai's models speak one language each; a Phonon may speak several.
        self._prompts = {
            name if language == languages[0] else f"{name}-{language}": (prompt, language)
            for language in languages
            for name, prompt in prompts.items()
        }
        encodes = self._codec.encoder is not None and model.config.model_type == "pocket_tts"
        self._recordings = Recordings(processor.feature_extractor.sampling_rate, self._encode)
        self.card = Card(
            sample_rate_hz=self._codec.config.sampling_rate,
            voices=[
                Voice(voice, voice.replace("-", " ").replace("_", " ").title(), language)
                for voice, (_, language) in self._prompts.items()
            ],
            revision=checkpoint.revision,
            options=_options(model),
            cloning="audio" if encodes else "",
        )

    def check(self, text: str, voice: str) -> None:
        """Refuse letters and digits that the tokenizer does not know, its own tokens, and text with nothing to say.

        Raises:
            UnspeakableText: Names the characters or tokens.
        """
        spoken = self._spell(text, voice)
        if tokens := [token for token in self._controls if token in spoken]:
            raise UnspeakableText(f"the model takes {quote(tokens)} for an order and cannot say it", field="input")
        speakable = [char for char in dict.fromkeys(spoken) if char.isalnum()]
        if strange := [char for char in speakable if not self._knows(char)]:
            raise UnspeakableText(f"the model has no tokens for {quote(strange)}", field="input")
        if not speakable:
            raise UnspeakableText(f"there is nothing to say in {text.strip()[:40]!r}", field="input")

    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        """Speak one segment; every step is a frame of 80 ms."""
        import torch

        recording = yield from self._recordings.of(settings.reference)
        trimmer = Trimmer(self.card.sample_rate_hz)
        decoding = SeanetStream(self._codec.decoder)
        # The library fades the start in, since a decoder that has heard nothing begins with a click.
        faded_in = int(self._processor.fade_in_duration * self.card.sample_rate_hz)
        fade = torch.linspace(0, 1, faded_in, dtype=torch.float32).numpy()
        noise = Noise(seed_of(settings, index), self._device)
        for latent in stepwise(partial(self._generate, text, settings, recording=recording), noise):
            latents = self._model.denormalize_latents(latent)[:, :, None].to(self._codec.dtype)
            samples = decoding.push(self._codec.latent_proj(latents))[0, 0].float().cpu().numpy()
            faded = min(len(fade), len(samples))
            samples[:faded] *= fade[:faded]
            fade = fade[faded:]
            yield trimmer.feed(samples)
        yield trimmer.flush()

    def _encode(self, samples: Samples) -> Prompt:
        """Make of a recording what voices are kept as, in the way in which the processor does."""
        extractor = self._processor.feature_extractor
        heard = extractor([samples], sampling_rate=extractor.sampling_rate).to(self._codec.device)
        encoded = self._codec.encode(heard["input_values"].to(self._codec.dtype), heard["padding_mask"])
        return Prompt(encoded.latents[encoded.latents_mask.bool()].float().cpu())

    def _generate(
        self, text: str, settings: Settings, emit: Callable[[Tensor], None], recording: Prompt | None = None
    ) -> None:
        """Run the library's generation; `emit` gets [1, D] for each frame."""
        # `generate` hands its frames to nobody before the end. A copy, which shares the weights, is listened to, so
        # that what other utterances do with the model is not heard.
        model = copy.copy(self._model)

        def sample_latent(*arguments: Any) -> Tensor:  # noqa: ANN401
            latent: Tensor = self._model.sample_latent(*arguments)
            emit(latent)
            return latent

        model.sample_latent = sample_latent
        bound_s = self.limits.bound_s(text, settings.speed)
        model.generate(
            **self._inputs(text, settings.voice, recording),
            **{"num_flow_steps" if name == "flow_steps" else name: value for name, value in settings.options.items()},
            max_new_tokens=math.ceil(bound_s * model.config.frame_rate),
        )

    def _inputs(self, text: str, voice: str, recording: Prompt | None = None) -> dict[str, Any]:
        from transformers import DynamicCache

        prompt = recording or self._prompts[voice][0]
        parts: list[dict[str, str]] = [{"type": "text", "text": self._spell(text, voice)}]
        given: dict[str, Any] = {}
        if prompt.latents is not None:
            parts.insert(0, {"type": "audio"})
            given["audio_prompt_latents"] = [prompt.latents]
        written = self._processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
        inputs = dict(self._processor(text=written, return_tensors="pt", **given).to(self._device))
        if prompt.layers:
            # The cache grows by new tensors, so the voice's own stay as they are.
            inputs["past_key_values"] = DynamicCache(prompt.layers, config=self._model.config)
        return inputs

    def _spell(self, text: str, voice: str) -> str:
        """Write numbers and the like out for Phonon, as its own runtime does; Pocket TTS reads them itself."""
        return normalise(text, self._prompts[voice][1]) if self._spells_out else text

    def _knows(self, char: str) -> bool:
        tokenizer = self._processor.tokenizer
        ids = tokenizer.encode(char, add_special_tokens=False)
        return bool(ids) and tokenizer.unk_token_id not in ids


def _load_processor(checkpoint: Checkpoint, codec: Any) -> Any:  # noqa: ANN401
    """Load all of a processor but its codec, which `PocketTTSProcessor.from_pretrained` would ask the hub for."""
    from transformers import AutoTokenizer, PocketTTSFeatureExtractor, PocketTTSProcessor

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    template = checkpoint.folder / "chat_template.jinja"
    config = json.loads((checkpoint.folder / "processor_config.json").read_text())
    names = ("short_text_max_words", "frames_after_eos_short_text", "frames_after_eos", "fade_in_duration")
    return PocketTTSProcessor(
        PocketTTSFeatureExtractor.from_pretrained(checkpoint.folder, local_files_only=True),
        tokenizer,
        audio_tokenizer=codec,
        chat_template=template.read_text() if template.exists() else tokenizer.chat_template,
        **{name: config[name] for name in names if name in config},
    )


def _can_encode(folder: Path) -> bool:
    """Whether a codec's repository holds the weights of the half that encodes."""
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            if any(name.startswith("encoder.") for name in weights.keys()):  # noqa: SIM118  # It is no dictionary.
                return True
    return False


def _codec_name(checkpoint: Checkpoint) -> str:
    config = json.loads((checkpoint.folder / "processor_config.json").read_text())
    return str(config["audio_tokenizer"]["audio_tokenizer_name_or_path"])


def _languages(folder: Path) -> list[str]:
    """Languages of a model, as its card lists them."""
    from huggingface_hub import metadata_load

    card = folder / "README.md"
    listed = ((metadata_load(card) if card.exists() else None) or {}).get("language") or []
    return [listed] if isinstance(listed, str) else list(listed)


def _load_voices(checkpoint: Checkpoint, model: Any) -> dict[str, Prompt]:  # noqa: ANN401
    """Load the voices by their names, the default one first."""
    from safetensors.torch import load_file

    found: dict[str, Path] = {}
    for pattern in VOICE_FILES:
        for path in sorted(checkpoint.folder.glob(pattern)):
            found.setdefault(path.stem.removesuffix("-voice"), path)
    if not found:
        raise UnsupportedModel(
            f"{checkpoint.name!r} has no voices of its own: it needs one of {', '.join(VOICE_FILES)}",
            field="model",
        )
    names = sorted(found, key=lambda name: (FIRST_VOICES.index(name) if name in FIRST_VOICES else 99, name))
    prompts = {}
    for name in names:
        tensors = load_file(found[name])
        prompt = _as_prompt(tensors, model)
        if prompt is None:
            shown = ", ".join(f"{key} {list(tensor.shape)}" for key, tensor in sorted(tensors.items())[:4])
            raise UnsupportedModel(
                f"the voice {name!r} of {checkpoint.name!r} is of a form that is not known: it holds {shown}",
                field="model",
            )
        prompts[name] = prompt
    return prompts


def _as_prompt(tensors: Mapping[str, Tensor], model: Any) -> Prompt | None:  # noqa: ANN401
    """Read a voice from the tensors of its file, by their names; None if it is of no known form."""
    config = model.config
    latent_dim = getattr(config, "audio_prompt_dim", config.latent_dim)
    if len(tensors) == 1:
        name, latents = next(iter(tensors.items()))
        latents = latents.float().squeeze(0) if latents.ndim == 3 else latents.float()
        if name == "speaker_wavs":
            latents = latents.mT.contiguous()
        return Prompt(latents) if latents.ndim == 2 and latents.shape[1] == latent_dim else None
    layers: dict[tuple[int, str], Tensor] = {}
    for name, tensor in tensors.items():
        name = name.replace("past_key_values", "")
        numbers, kinds = _LAYER.findall(name), [kind for kind in ("key", "value") if kind in name]
        if len(numbers) != 1 or len(kinds) != 1 or tensor.ndim != 4:
            return None
        layers[int(numbers[0]), kinds[0]] = tensor.to(model.device, model.dtype)
    shape = (config.num_key_value_heads, config.head_dim)
    wanted = [(layer, kind) for layer in range(config.num_hidden_layers) for kind in ("key", "value")]
    if sorted(layers) != wanted or any((each.shape[1], each.shape[3]) != shape for each in layers.values()):
        return None
    return Prompt(layers=[(layers[n, "key"], layers[n, "value"]) for n in range(config.num_hidden_layers)])


def _options(model: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    options: dict[str, dict[str, Any]] = {
        "temperature": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 2,
            "default": model.generation_config.temperature or 1.0,
            "description": "liveliness: the variance of the noise that the frames are drawn from",
        },
    }
    if model.config.flow_head_config.flow_type != "drifting":  # That head takes one step whatever is asked for.
        options["flow_steps"] = {
            "type": "integer",
            "minimum": 1,
            "maximum": 32,
            "default": getattr(model.generation_config, "num_flow_steps", None) or 1,
            "description": "steps from noise to frame; more are finer and slower",
        }
    return options
