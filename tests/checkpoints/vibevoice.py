"""A tiny VibeVoice in the layout of transformers, as `vibevoice/VibeVoice-1.5B-hf` has it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.checkpoints import Family

MODEL = "tiny-org/tiny-vibevoice"
NUM_FRAMES = 8
"""The random model never ends by itself: 8 frames are 1.07 s."""

# What the real template makes of one message, with a recording or without.
CHAT_TEMPLATE = """\
{{ " Transform the text provided by various speakers into speech output, utilizing the distinct voice of each \
respective speaker.\\n" }}
{%- for message in messages %}
    {%- for item in message['content'] if item['type'] == 'audio' %}
        {{- " Voice input:\\n Speaker " + message['role'] + ":<|vision_start|><|vision_pad|><|vision_end|>\\n" }}
    {%- endfor %}
{%- endfor %}
{{- " Text input:\\n" }}
{%- for message in messages %}
    {%- for item in message['content'] if item['type'] == 'text' %}
        {{- " Speaker " + message['role'] + ": " + item['text'] + "\\n" }}
    {%- endfor %}
{%- endfor %}
{{- " Speech output:\\n<|vision_start|>" }}"""

SPECIAL_TOKENS = ["<|vision_pad|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>"]


def build(root: Path) -> None:
    """Write the repository."""
    import torch
    from transformers import (
        Qwen2Config,
        VibeVoiceAcousticTokenizerFeatureExtractor,
        VibeVoiceConfig,
        VibeVoiceForConditionalGeneration,
        VibeVoiceProcessor,
    )

    torch.manual_seed(0)
    tokenizer = _build_tokenizer()
    audio, end_of_text, audio_bos, audio_eos = tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS)
    codec = {"num_filters": 1, "ffn_expansion": 1, "depths": [1] * 7}
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = VibeVoiceForConditionalGeneration(
        VibeVoiceConfig(
            text_config=Qwen2Config(vocab_size=len(tokenizer), num_attention_heads=2, num_key_value_heads=1, **size),
            audio_config={"model_type": "vibevoice_acoustic_tokenizer", "hidden_size": 8, **codec},
            semantic_model_config={"model_type": "vibevoice_acoustic_tokenizer_encoder", "hidden_size": 8, **codec},
            diffusion_head_config={"num_hidden_layers": 1, "intermediate_size": 16, "frequency_embedding_size": 16},
            pad_token_id=end_of_text,
            eos_token_id=end_of_text,
            audio_bos_token_id=audio_bos,
            audio_eos_token_id=audio_eos,
            audio_token_id=audio,
        )
    )
    for weight in (each for each in model.parameters() if each.ndim >= 2):
        torch.nn.init.normal_(weight, std=0.5 if weight.ndim == 2 else (2 / weight[0].numel()) ** 0.5)
    for parameter in model.model.audio_tower.decoder.head.parameters():
        parameter.data.mul_(0.01)  # Audible and not clipped.
    # Of logits that are equal the lowest token is taken: the one for another frame.
    model.lm_head.weight.data[audio : audio_eos + 1] = 0.0
    model.generation_config.update(
        do_sample=False,
        guidance_scale=1.3,
        max_new_tokens=NUM_FRAMES,
        noise_scheduler_class="DPMSolverMultistepScheduler",
        noise_scheduler_config={"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    )
    folder = root / MODEL
    model.save_pretrained(folder)
    feature_extractor = VibeVoiceAcousticTokenizerFeatureExtractor()
    VibeVoiceProcessor(feature_extractor, tokenizer, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    config = {"model_type": "vibevoice", "architectures": ["VibeVoiceForConditionalGeneration"]}
    tags = ["transformers", "safetensors", "vibevoice", "text-to-audio", "text-to-speech", "en", "zh"]
    info = {"library_name": "transformers", "tags": tags, "config": config}
    (folder / ".hub.json").write_text(json.dumps({"info": info}))


def _build_tokenizer() -> Any:
    """A byte-level tokenizer without merges: it encodes every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import Qwen2TokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return Qwen2TokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def reference(
    root: Path, text: str, voice: str, seed: int, recording: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Speak as the library's documentation shows it; `recording` is at 24 kHz."""
    import torch
    from transformers import VibeVoiceForConditionalGeneration, VibeVoiceProcessor

    model = VibeVoiceForConditionalGeneration.from_pretrained(root / MODEL, local_files_only=True).eval()
    processor = VibeVoiceProcessor.from_pretrained(root / MODEL, local_files_only=True)
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if recording is not None:
        content.append({"type": "audio", "audio": recording})
    message = {"role": voice.removeprefix("speaker-"), "content": content}
    inputs = processor.apply_chat_template([message], tokenize=True, return_dict=True, return_tensors="pt")
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # The way in which diffusers makes arrays of tensors is deprecated by numpy.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        return model.generate(**inputs)[0].flatten().numpy()


# Both branches of the language model are read at once, and what is spoken is heard again: rounding feeds back.
FAMILY = Family("vibevoice", MODEL, build, reference, tolerance=1e-4)
