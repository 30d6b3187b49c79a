"""`tiny-org/tiny-csm`: laid out as `sesame/csm-1b`, where the weights of transformers have names of their own."""

import json
from pathlib import Path

import numpy as np

from tests.checkpoints import Family

MODEL = "tiny-org/tiny-csm"
CODEBOOKS, CODES, END = 4, 64, 0
TEMPLATE = (
    "{%- for turn in messages %}{{ '<|begin_of_text|>[' + turn['role'] + ']' }}{%- for part in turn['content'] %}"
    "{%- if part['type'] == 'text' %}{{ part['text'] + '<|end_of_text|>' }}"
    "{%- elif part['type'] == 'audio' %}{{ '<|AUDIO|><|audio_eos|>' }}{%- endif %}{%- endfor %}{%- endfor %}"
)


def build(root: Path, *, ends: bool = True) -> None:
    """Write the checkpoint; with `ends`, a frame ends the speech with a likelihood of some per cent."""
    import torch
    from transformers import CsmProcessor, EncodecFeatureExtractor, PreTrainedTokenizerFast

    folder = root / MODEL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_bytes(["<|begin_of_text|>", "<|end_of_text|>", "<|AUDIO|>", "<|audio_eos|>", "<pad>"]),
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token="<pad>",
        padding_side="left",
    )
    torch.manual_seed(0)
    model = _model(tokenizer)
    with torch.no_grad():
        _make_it_end(model, ends)
        _make_it_loud(model.codec_model)
    model.save_pretrained(folder)
    features = EncodecFeatureExtractor(feature_size=1, sampling_rate=24_000)
    CsmProcessor(features, tokenizer, chat_template=TEMPLATE).save_pretrained(folder)
    _rename_weights(folder)
    about = {
        "library_name": "transformers",
        "tags": ["transformers", "safetensors", "csm", "text-to-audio", "en"],
    }
    about["config"] = {"model_type": "csm", "architectures": ["CsmForConditionalGeneration"]}
    (folder / ".hub.json").write_text(json.dumps({"info": about}))


def reference(root: Path, text: str, voice: str, seed: int, recording=None, **arguments) -> np.ndarray:
    """Speak as the model's card shows it; `recording` is what is said in one and its samples."""
    import torch
    from transformers import AutoProcessor, CsmForConditionalGeneration

    processor = AutoProcessor.from_pretrained(root / MODEL)
    model = CsmForConditionalGeneration.from_pretrained(root / MODEL, dtype="float32")
    turn = {"role": voice.removeprefix("speaker-"), "content": [{"type": "text", "text": text}]}
    turns = [turn]
    if recording:
        transcript, samples = recording
        content = [{"type": "text", "text": transcript}, {"type": "audio", "audio": samples}]
        turns.insert(0, {"role": turn["role"], "content": content})
    prompt = processor.apply_chat_template(turns, tokenize=True, return_dict=True)
    torch.manual_seed(seed)
    return model.generate(**prompt, output_audio=True, **{"max_new_tokens": 600, **arguments})[0].numpy()


def _model(tokenizer):
    from transformers import CsmConfig, CsmForConditionalGeneration, MimiConfig

    ids = tokenizer.convert_tokens_to_ids
    codec = MimiConfig(
        hidden_size=16,
        num_filters=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=16,
        codebook_size=CODES,
        codebook_dim=8,
        upsample_groups=16,
        vector_quantization_hidden_dimension=8,
        num_quantizers=CODEBOOKS,
        num_semantic_quantizers=1,
        sliding_window=16,
    )
    layers = {
        "num_codebooks": CODEBOOKS,
        "vocab_size": CODES,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    config = CsmConfig(
        **layers,
        text_vocab_size=len(tokenizer),
        codebook_pad_token_id=CODES - 1,
        codebook_eos_token_id=END,
        bos_token_id=ids("<|begin_of_text|>"),
        pad_token_id=ids("<pad>"),
        audio_token_id=ids("<|AUDIO|>"),
        audio_eos_token_id=ids("<|audio_eos|>"),
        max_position_embeddings=2048,
        initializer_range=0.5,  # Large enough for the text and the speaker to make a difference.
        depth_decoder_config={**layers, "backbone_hidden_size": 16, "max_position_embeddings": CODEBOOKS + 1},
        codec_config=codec.to_dict(),
    )
    model = CsmForConditionalGeneration(config)
    # As in the real one: else the library drops the values for the depth decoder.
    model.generation_config._from_model_config = model.depth_decoder.generation_config._from_model_config = False
    model.generation_config.update(do_sample=True, temperature=0.9, max_new_tokens=125)
    model.depth_decoder.generation_config.update(do_sample=True, temperature=0.9)
    return model


def _make_it_end(model, ends: bool) -> None:
    """Set weights by hand, since with random ones all codes of a frame are hardly ever the one that ends the speech.

    In the embeddings, dimension 0 says whether a code is the ending one, and dimension 1 whether it is a code or text.
    The backbone's head reads from the latter that the end is likely after a frame, but not after the text; the depth
    decoder's heads go by the former.
    """
    codes = model.depth_decoder.model.embed_tokens.weight  # [CODEBOOKS * CODES, 16], shared with the backbone.
    text = model.embed_text_tokens.weight
    for embeddings, kind in ((codes, 0.75), (text, -3.0)):
        embeddings.normal_()
        embeddings[:, 0] = 0.0
        embeddings[:, 1] = kind
    codes[[book * CODES + END for book in range(CODEBOOKS)], 0] = 30.0
    text[ord("0") - ord("!") : ord("9") - ord("!") + 1, 2:] *= 30.0  # So that the speaker is heard.
    for layer in model.backbone_model.layers:
        layer.mlp.down_proj.weight.zero_()
        layer.self_attn.o_proj.weight[1] = 0.0
    depth = model.depth_decoder
    depth.model.inputs_embeds_projector.weight.copy_(codes.new_ones(16).diag())
    depth.codebooks_head.weight.normal_(std=0.5)  # [CODEBOOKS - 1, 16, CODES]
    depth.codebooks_head.weight[:, :, END] = 0.0
    depth.codebooks_head.weight[:, 0, END] = 8.0 if ends else -8.0
    model.lm_head.weight.normal_(std=0.5)  # [CODES, 16]
    model.lm_head.weight[END] = 0.0
    model.lm_head.weight[END, 1] = 2.2


def _make_it_loud(codec) -> None:
    """Fill the codebooks, which begin empty, and set the level of the audio."""
    import torch

    for name, buffer in codec.quantizer.named_buffers():
        if name.endswith("embed_sum"):
            buffer.normal_()
    audio = codec.decode(torch.randint(CODES, (1, CODEBOOKS, 20))).audio_values
    last = codec.decoder.decoder_seanet.layers[-1].conv
    last.weight.mul_(0.5 / audio.abs().max())
    last.bias.zero_()


def _bytes(specials: list[str]):
    """Make a tokenizer with a token for every byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: number for number, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    return tokenizer


def _rename_weights(folder: Path) -> None:
    from safetensors import safe_open

    shard = "transformers-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(folder / shard)
    with safe_open(folder / shard, "pt") as weights:
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights.keys(), shard)}
    (folder / "transformers.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    config["transformers_weights"] = "transformers.safetensors.index.json"
    (folder / "config.json").write_text(json.dumps(config))
    # The original code's weights, which transformers must not be given.
    (folder / "model.safetensors").write_bytes(b"")


FAMILY = Family(engine="csm", model=MODEL, build=build, reference=reference, tolerance=2e-5)
