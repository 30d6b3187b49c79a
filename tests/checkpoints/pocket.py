"""`tiny-org/tiny-pocket-tts` as `kyutai/pocket-tts` and `tiny-org/tiny-phonon-en` as `gradium/phonon-31m-en`.

Each has its codec in a repository of its own, which the processor's configuration names.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints import Family

POCKET, POCKET_CODEC = "tiny-org/tiny-pocket-tts", "tiny-org/tiny-pocket-tts-codec"
PHONON, PHONON_CODEC = "tiny-org/tiny-phonon-en", "tiny-org/tiny-phonon-mimi"
SPECIALS = {
    "audio_prompt_token": "<|audio_prompt|>",
    "audio_latent_token": "<|audio_latent|>",
    "audio_bos_token": "<|audio_bos|>",
}
BEFORE_VOICE = {"audio_prompt_bos_token": "<|audio_prompt_bos|>"}
TEMPLATE = (
    "{%- for turn in messages %}{%- for part in turn['content'] %}"
    "{%- if part['type'] == 'audio' %}{{ 'BEFORE<|audio_prompt|>' }}"
    "{%- elif part['type'] == 'text' %}{{ part['text'] }}{%- endif %}{%- endfor %}{%- endfor %}{{ '<|audio_bos|>' }}"
)
LATENT_DIM, VOICE_DIM, VOICE_FRAMES = 8, 12, 12


def build_pocket(root: Path, *, ends: bool = True) -> None:
    """Write a model with two voices as latents, and one, `jean`, as what the transformer makes of its latents."""
    import torch
    from safetensors.torch import save_file
    from transformers import PocketTTSConfig, PocketTTSForConditionalGeneration

    tokenizer = _tokenizer(SPECIALS | BEFORE_VOICE)
    ids = tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    model = PocketTTSForConditionalGeneration(
        PocketTTSConfig(**_sizes(tokenizer), audio_prompt_bos_token_id=ids(BEFORE_VOICE["audio_prompt_bos_token"]))
    )
    _write(root, POCKET, POCKET_CODEC, model, tokenizer, ends, BEFORE_VOICE["audio_prompt_bos_token"])
    voices = root / POCKET / "voices"
    voices.mkdir()
    for number, name in enumerate(("marius", "alba")):
        save_file({"audio_prompt_latents": _voice(number, LATENT_DIM)}, voices / f"{name}.safetensors")
    save_file(voice_prefix(model.eval(), tokenizer, _voice(2, LATENT_DIM)), voices / "jean.safetensors")


def voice_prefix(model, tokenizer, latents) -> dict[str, Any]:
    """What the transformer makes of a voice: keys and values for each layer."""
    import torch

    ids = tokenizer.convert_tokens_to_ids([*BEFORE_VOICE.values(), *[SPECIALS["audio_prompt_token"]] * len(latents)])
    with torch.no_grad():
        seen = model.model(input_ids=torch.tensor([ids]), audio_prompt_latents=latents[None], use_cache=True)
    layers = enumerate(seen.past_key_values.layers)
    return {
        f"layers.{number}.{kind}": getattr(layer, kind).contiguous()
        for number, layer in layers
        for kind in ("keys", "values")
    }


def build_phonon(root: Path, *, languages: tuple[str, ...] = ("en",)) -> None:
    """Write a model with its default voice and another, both of them as Gradium's runtime takes them."""
    import torch
    from safetensors.torch import save_file
    from transformers import GradiumPhononTTSConfig, GradiumPhononTTSForConditionalGeneration

    tokenizer = _tokenizer(SPECIALS)
    torch.manual_seed(0)
    model = GradiumPhononTTSForConditionalGeneration(
        GradiumPhononTTSConfig(**_sizes(tokenizer), audio_prompt_dim=VOICE_DIM, duration_delta_embedding_dim=16)
    )
    _write(root, PHONON, PHONON_CODEC, model, tokenizer, True, "", languages)
    folder = root / PHONON
    (folder / "embeddings").mkdir()
    for number, path in enumerate((folder / "default-voice.safetensors", folder / "embeddings/freya.safetensors")):
        save_file({"speaker_wavs": _voice(number, VOICE_DIM).T[None].contiguous()}, path)


def pocket_reference(root: Path, text: str, voice: str, seed: int, **arguments) -> np.ndarray:
    return _sound(root, POCKET, POCKET_CODEC, pocket_latents(root, text, voice, seed, **arguments))


def pocket_latents(root: Path, text: str, voice: str, seed: int, **arguments):
    """What the library makes of a text: [T, D] for the codec."""
    from safetensors.torch import load_file
    from transformers import DynamicCache, PocketTTSForConditionalGeneration

    model = PocketTTSForConditionalGeneration.from_pretrained(root / POCKET, dtype="float32")
    processor = _processor(root, POCKET, POCKET_CODEC)
    tensors = load_file(root / POCKET / f"voices/{voice}.safetensors")
    if "audio_prompt_latents" in tensors:
        return generate(model, processor, text, tensors["audio_prompt_latents"], seed, **arguments)
    layers = range(model.config.num_hidden_layers)
    pairs = [(tensors[f"layers.{layer}.keys"], tensors[f"layers.{layer}.values"]) for layer in layers]
    arguments["past_key_values"] = DynamicCache(pairs, config=model.config)
    return generate(model, processor, text, None, seed, **arguments)


def pocket_imitation(root: Path, text: str, recording: np.ndarray, seed: int) -> np.ndarray:
    """Speak as the library's documentation shows it, with a recording at 24 kHz."""
    import torch
    from transformers import PocketTTSForConditionalGeneration

    model = PocketTTSForConditionalGeneration.from_pretrained(root / POCKET, dtype="float32")
    processor = _processor(root, POCKET, POCKET_CODEC)
    content = [{"type": "audio", "audio": recording}, {"type": "text", "text": text}]
    turn = {"role": "user", "content": content}
    inputs = processor.apply_chat_template([turn], tokenize=True, return_dict=True, return_tensors="pt")
    torch.manual_seed(seed)
    made = model.generate(**inputs)
    return processor.decode(made.audio_latents, made.audio_latents_mask)[0].numpy()


def phonon_reference(root: Path, text: str, voice: str, seed: int, **arguments) -> np.ndarray:
    return _sound(root, PHONON, PHONON_CODEC, phonon_latents(root, text, voice, seed, **arguments))


def phonon_latents(root: Path, text: str, voice: str, seed: int, **arguments):
    """What the library makes of a text: [T, D] for the codec."""
    from safetensors.torch import load_file
    from transformers import GradiumPhononTTSForConditionalGeneration

    from worker.text.normalise import normalise

    model = GradiumPhononTTSForConditionalGeneration.from_pretrained(root / PHONON, dtype="float32")
    path = "default-voice.safetensors" if voice == "default" else f"embeddings/{voice}.safetensors"
    latents = load_file(root / PHONON / path)["speaker_wavs"][0].T
    processor = _processor(root, PHONON, PHONON_CODEC)
    return generate(model, processor, normalise(text, "en"), latents, seed, **arguments)


def generate(model, processor, text: str, latents, seed: int, **arguments):
    """Make [T, D] for the codec, after the latents of a voice unless they are None."""
    import torch

    voice, given = ([], {}) if latents is None else ([{"type": "audio"}], {"audio_prompt_latents": [latents]})
    content = [*voice, {"type": "text", "text": text}]
    written = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    inputs = processor(text=written, return_tensors="pt", **given)
    torch.manual_seed(seed)
    return model.generate(**inputs, **arguments).audio_latents[0]


def _sound(root: Path, name: str, codec: str, latents) -> np.ndarray:
    return _processor(root, name, codec).decode(latents).numpy()


def _processor(root: Path, name: str, codec: str):
    from transformers import AutoTokenizer, PocketTTSAudioTokenizerModel, PocketTTSFeatureExtractor, PocketTTSProcessor

    return PocketTTSProcessor(
        PocketTTSFeatureExtractor.from_pretrained(root / name),
        AutoTokenizer.from_pretrained(root / name),
        audio_tokenizer=PocketTTSAudioTokenizerModel.from_pretrained(root / codec),
        chat_template=(root / name / "chat_template.jinja").read_text(),
    )


def _sizes(tokenizer) -> dict[str, Any]:
    ids = tokenizer.convert_tokens_to_ids
    return {
        **{f"{name}_id": ids(token) for name, token in SPECIALS.items()},
        "vocab_size": len(tokenizer),
        "pad_token_id": ids("<pad>"),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "latent_dim": LATENT_DIM,
        # Large enough for voice and text to make a difference, and no larger: roundings would grow from frame to frame.
        "initializer_range": 0.25,
        "flow_head_config": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "latent_dim": LATENT_DIM,
            "condition_dim": 16,
            "frequency_embedding_size": 16,
        },
    }


def _tokenizer(specials: dict[str, str]):
    """Make one that knows ASCII letters, digits and punctuation."""
    import string

    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["<unk>", "<pad>", *string.ascii_letters, *string.digits, *" .,;:!?'\"()-"]
    tokenizer = Tokenizer(models.BPE({char: number for number, char in enumerate(known)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<pad>", *specials.values())])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens=specials,
    )


def _voice(number: int, size: int):
    import torch

    return torch.randn(VOICE_FRAMES, size, generator=torch.Generator().manual_seed(number))


def _write(root, name, codec, model, tokenizer, ends, before, languages=("en",)) -> None:
    import torch
    from transformers import PocketTTSFeatureExtractor, PocketTTSProcessor

    with torch.no_grad():
        # The speech ends at a logit above -4: at one frame of a dozen or so, or never.
        model.eos_head.weight.normal_()
        model.eos_head.bias.fill_(-8.5 if ends else -1000.0)
    model.generation_config.update(do_sample=True, temperature=0.7, return_dict_in_generate=True)
    model.save_pretrained(root / name)
    save = partial(PocketTTSProcessor, PocketTTSFeatureExtractor(), tokenizer)
    save(audio_tokenizer=_codec(root / codec), chat_template=TEMPLATE.replace("BEFORE", before)).save_pretrained(
        root / name
    )
    path = root / name / "processor_config.json"
    config = json.loads(path.read_text())
    config["audio_tokenizer"]["audio_tokenizer_name_or_path"] = codec
    path.write_text(json.dumps(config))
    listed = "".join(f"\n- {language}" for language in languages)
    (root / name / "README.md").write_text(f"---\nlibrary_name: transformers\nlanguage:{listed}\n---\n# Tiny\n")
    (root / name / "model.q8.gguf").write_bytes(b"GGUF")
    model_type = model.config.model_type
    _tell_hub(root / name, model_type, type(model).__name__, ["text-to-speech", "safetensors", "gguf", *languages])
    _tell_hub(root / codec, "pocket_tts_audio_tokenizer", "PocketTTSAudioTokenizerModel", ["safetensors"])


def _codec(folder: Path):
    import torch
    from transformers import PocketTTSAudioTokenizerConfig, PocketTTSAudioTokenizerModel

    codec = PocketTTSAudioTokenizerModel(
        PocketTTSAudioTokenizerConfig(
            hidden_size=16,
            num_filters=4,
            num_hidden_layers=1,
            intermediate_size=16,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            upsample_groups=16,
            latent_dim=LATENT_DIM,
            sliding_window=50,
        )
    )
    with torch.no_grad():
        audio = codec.decode(torch.randn(1, 20, LATENT_DIM)).audio_values
        last = codec.decoder.decoder_seanet.layers[-1].conv
        last.weight.mul_(0.1 / audio.abs().max())
        last.bias.zero_()
    codec.save_pretrained(folder)
    return PocketTTSAudioTokenizerModel.from_pretrained(folder)


def _tell_hub(folder: Path, model_type: str, architecture: str, tags: list[str]) -> None:
    config = {"model_type": model_type, "architectures": [architecture]}
    about = {"library_name": "transformers", "tags": ["transformers", model_type, *tags], "config": config}
    (folder / ".hub.json").write_text(json.dumps({"info": about}))


FAMILIES = (
    Family("pocket", POCKET, build_pocket, pocket_reference, tolerance=2e-5),
    Family("pocket", PHONON, build_phonon, phonon_reference, tolerance=2e-5),
)
