"""Engine `pocket`: Kyutai's Pocket TTS and Gradium's Phonon, continuous audio language models; knows no scheduling.

A causal transformer reads a voice and a text and makes one latent per frame of 80 ms; a flow head draws it from noise,
and the codec turns it into audio at once (Rouard et al. 2025, "Continuous Audio Language Models"; the codec is Mimi
without its quantizer, see `seanet`). All of it is done for several utterances at once (`pocket_network`). Phonon
differs in what its voices consist of, and in that it was made for text that is spelled out.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from worker.engines.pocket_network import Layers, Line, Network, Prompt
from worker.engines.recordings import Reading, Recordings, Request
from worker.engines.stages import Speech
from worker.engines.stepwise import TorchEngine, from_disk, place, seed_of
from worker.errors import UnspeakableText, UnsupportedModel, UnsupportedOption
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
        timbres = _load_voices(checkpoint, place(model, device))
        processor = _load_processor(checkpoint, place(codec, device))
        return PocketModel(model, processor, timbres, checkpoint, device)


@dataclass(frozen=True, slots=True)
class Timbre:
    """A voice, as the model takes it; one of the two is there.

    Attributes:
        latents: float32 [T, D] on the CPU.
        layers: What the transformer makes of them.
    """

    latents: Tensor | None = None
    layers: Layers = ()


@dataclass(frozen=True, slots=True)
class PocketVoice:
    """A voice that speaks one language.

    Attributes:
        timbre: What it sounds like.
        language: BCP 47 tag.
        spells_out: Whether the model was made for text that is spelled out.
    """

    timbre: Timbre
    language: str
    spells_out: bool

    def spell(self, text: str) -> str:
        """Write numbers and the like out for Phonon, as its own runtime does; Pocket TTS reads them itself."""
        return normalise(text, self.language) if self.spells_out else text


class PocketModel(Model):
    """Speaks with the voices of its repository.

    Args:
        model: `PocketTTSForConditionalGeneration` or `GradiumPhononTTSForConditionalGeneration`.
        processor: `PocketTTSProcessor` with a codec.
        timbres: The voices, by their names.
        checkpoint: Where they are from.
        device: Where the model and the codec are.
    """

    # The models are made for pieces of up to 50 tokens, some 4 characters each; frames stream at once, so a first
    # segment has no need to be short.
    limits = SegmentLimits(first=180, longest=180)
    is_staged = True

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        processor: Any,  # noqa: ANN401
        timbres: Mapping[str, Timbre],
        checkpoint: Checkpoint,
        device: str,
    ) -> None:
        import torch

        codec = processor.audio_tokenizer
        self._network = Network(model, codec, device)
        self.slots = self._network.num_slots
        # Of its own, since `check` may run while the processor's is at work on the device thread.
        self._tokenizer = copy.deepcopy(processor.tokenizer)
        self._controls = [token for token in self._tokenizer.get_added_vocab() if token.strip()]
        is_phonon = model.config.model_type == "gradium_phonon_tts"
        languages = _languages(checkpoint.folder) or ["en"]
        if not is_phonon:
            languages = languages[:1]  # Kyutai's models speak one language each; a Phonon may speak several.
        self._voices = {
            name if language == languages[0] else f"{name}-{language}": PocketVoice(timbre, language, is_phonon)
            for language in languages
            for name, timbre in timbres.items()
        }
        self._read = PocketReading(self._network, processor, self._voices, self.limits)
        sample_rate_hz = codec.config.sampling_rate
        # The library fades the start in, since a decoder that has heard nothing begins with a click.
        faded_in = int(processor.fade_in_duration * sample_rate_hz)
        self._fade = torch.linspace(0, 1, faded_in, dtype=torch.float32).numpy()
        self.card = Card(
            sample_rate_hz=sample_rate_hz,
            voices=[
                Voice(name, name.replace("-", " ").replace("_", " ").title(), voice.language)
                for name, voice in self._voices.items()
            ],
            revision=checkpoint.revision,
            options=_options(model),
            cloning="audio" if codec.encoder is not None and not is_phonon else "",
        )

    def check(self, text: str, voice: str) -> None:
        """Refuse letters and digits that the tokenizer does not know, its own tokens, and text with nothing to say.

        Raises:
            UnspeakableText: Names the characters or tokens.
        """
        spoken = self._voices[voice].spell(text)
        if tokens := [token for token in self._controls if token in spoken]:
            raise UnspeakableText(f"the model takes {quote(tokens)} for an order and cannot say it", field="input")
        speakable = [char for char in dict.fromkeys(spoken) if char.isalnum()]
        if strange := [char for char in speakable if not self._knows(char)]:
            raise UnspeakableText(f"the model has no tokens for {quote(strange)}", field="input")
        if not speakable:
            raise UnspeakableText(f"there is nothing to say in {text.strip()[:40]!r}", field="input")

    def speak(self, text: str, index: int, settings: Settings) -> Speech:
        """Speak one segment, a frame of 80 ms at a time."""
        import torch

        network, trimmer, fade = self._network, Trimmer(self.card.sample_rate_hz), self._fade
        prompt = yield from self._read(Request(text, settings))
        options = {name: settings.options.get(name, option["default"]) for name, option in self.card.options.items()}
        generator = torch.Generator(network.device).manual_seed(seed_of(settings, index))
        slot = network.slots.take()
        try:
            line = Line(slot, prompt, generator, options["temperature"], options.get("flow_steps", 1))
            yield from network.prefill(line)
            while line.frames_left:
                yield from network.step(line)
                samples = yield from network.decode(line)
                faded = min(len(fade), len(samples))
                samples[:faded] *= fade[:faded]
                fade = fade[faded:]
                yield trimmer.feed(samples)
        finally:
            network.slots.give_back(slot)
        yield trimmer.flush()

    def _knows(self, char: str) -> bool:
        ids = self._tokenizer.encode(char, add_special_tokens=False)
        return bool(ids) and self._tokenizer.unk_token_id not in ids


class PocketReading(Reading[Prompt]):
    """Makes prompts of texts, and of the voices or recordings that come before them.

    Args:
        network: Embeds the prompts.
        processor: `PocketTTSProcessor` with a codec.
        voices: By their ids.
        limits: How long a segment may be.
    """

    def __init__(
        self,
        network: Network,
        processor: Any,  # noqa: ANN401
        voices: Mapping[str, PocketVoice],
        limits: SegmentLimits,
    ) -> None:
        self._network, self._processor, self._voices, self._limits = network, processor, voices, limits
        self._recordings = Recordings(processor.feature_extractor.sampling_rate, self._encode)

    def prompt(self, text: str, settings: Settings) -> Prompt:
        """Make a prompt, as the library's processor writes it.

        Raises:
            UnsupportedOption: The voice leaves no room for the speech.
        """
        voice, config = self._voices[settings.voice], self._network.model.config
        timbre = self._recordings.read(settings.reference) if settings.reference else voice.timbre
        parts: list[dict[str, str]] = [{"type": "text", "text": voice.spell(text)}]
        given: dict[str, Any] = {}
        if timbre.latents is not None:
            parts.insert(0, {"type": "audio"})
            given["audio_prompt_latents"] = [timbre.latents]
        written = self._processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
        inputs = self._processor(text=written, return_tensors="pt", **given)
        ids = inputs["input_ids"][0].to(self._network.device)
        longest = math.ceil(self._limits.bound_s(text, settings.speed) * config.frame_rate)
        left = config.max_position_embeddings - sum(keys.shape[2] for keys, _ in timbre.layers[:1]) - len(ids)
        # Slow speech takes a third of what is allowed.
        if left < longest / 3:
            raise UnsupportedOption(
                f"the voice {settings.speaker!r} is too long for the model: it leaves {max(0, left)} of "
                f"{config.max_position_embeddings} positions for speech, and {text[:40]!r} may need {longest}",
                field="voice",
            )
        return Prompt(
            timbre.layers, self._embed(ids, timbre.latents), min(longest, left), int(inputs["frames_after_eos"][0])
        )

    def _embed(self, ids: Tensor, latents: Tensor | None) -> Tensor:
        """Embed a prompt, int64 [T], as [T, H]: the voice's latents, the text, and where speech begins."""
        model = self._network.model
        transformer, config = model.model, model.config
        embedded: Tensor = transformer.embed_tokens(ids)
        embedded[ids == config.audio_bos_token_id] = transformer.embed_audio_latents(transformer.bos_latent)
        if latents is not None:
            heard = latents.to(embedded.device, embedded.dtype)
            embedded[ids == config.audio_prompt_token_id] = transformer.audio_prompt_proj(heard)
        return embedded

    def _encode(self, samples: Samples) -> Timbre:
        """Make of a recording what voices are kept as, in the way in which the processor does."""
        extractor, codec = self._processor.feature_extractor, self._processor.audio_tokenizer
        heard = extractor([samples], sampling_rate=extractor.sampling_rate).to(codec.device)
        encoded = codec.encode(heard["input_values"].to(codec.dtype), heard["padding_mask"])
        return Timbre(encoded.latents[encoded.latents_mask.bool()].float().cpu())


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


def _load_voices(checkpoint: Checkpoint, model: Any) -> dict[str, Timbre]:  # noqa: ANN401
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
    timbres = {}
    for name in names:
        tensors = load_file(found[name])
        timbre = _as_timbre(tensors, model)
        if timbre is None:
            shown = ", ".join(f"{key} {list(tensor.shape)}" for key, tensor in sorted(tensors.items())[:4])
            raise UnsupportedModel(
                f"the voice {name!r} of {checkpoint.name!r} is of a form that is not known: it holds {shown}",
                field="model",
            )
        timbres[name] = timbre
    return timbres


def _as_timbre(tensors: Mapping[str, Tensor], model: Any) -> Timbre | None:  # noqa: ANN401
    """Read a voice from the tensors of its file, by their names; None if it is of no known form."""
    config = model.config
    latent_dim = getattr(config, "audio_prompt_dim", config.latent_dim)
    if len(tensors) == 1:
        name, latents = next(iter(tensors.items()))
        latents = latents.float().squeeze(0) if latents.ndim == 3 else latents.float()
        if name == "speaker_wavs":
            latents = latents.mT.contiguous()
        return Timbre(latents) if latents.ndim == 2 and latents.shape[1] == latent_dim else None
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
    return Timbre(layers=[(layers[n, "key"], layers[n, "value"]) for n in range(config.num_hidden_layers)])


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
