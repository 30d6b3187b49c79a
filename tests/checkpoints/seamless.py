"""SeamlessM4T v2: the whole model, of which the engine loads a part, as in Meta's repository."""

import json
import string
import tempfile
from pathlib import Path

import numpy as np

from tests.checkpoints import Family

MODEL = "tiny-org/tiny-seamless"
LANGUAGES = ("deu", "eng", "fra", "pes")
READ_ONLY = "ace"
"""A language that the model translates and cannot speak."""

CHARACTERS = string.ascii_letters + string.digits + ".,'?!-äöüßéسلام"
WORDS = "hello world this is a test the speech of sentences short hallo welt"


def build(root: Path, *, ends: bool = True, architecture: str = "SeamlessM4Tv2Model") -> None:
    """Write the repository.

    Args:
        root: Where.
        ends: Whether the translation into the same language comes to an end; else it goes on to the bound.
        architecture: What the configuration says the model is.
    """
    import torch
    from transformers import GenerationConfig, SeamlessM4Tv2Config, SeamlessM4Tv2Model

    torch.manual_seed(0)
    folder = root / MODEL
    folder.mkdir(parents=True)
    info = {
        "library_name": "transformers",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": [
            "transformers",
            "safetensors",
            "seamless_m4t_v2",
            "feature-extraction",
            "audio-to-audio",
            "text-to-speech",
            "seamless_communication",
            "automatic-speech-recognition",
            "license:cc-by-nc-4.0",
        ],
        "config": {"model_type": "seamless_m4t_v2", "architectures": [architecture]},
    }
    (folder / ".hub.json").write_text(json.dumps({"info": info}))
    pieces = _write_tokenizer(folder)
    num_languages = len(LANGUAGES) + 1
    language_tokens = {code: len(pieces) + i for i, code in enumerate((READ_ONLY, *LANGUAGES))}
    letters = sorted({char for piece in pieces[4:] for char in piece})
    layers = {
        f"{part}{name}": size
        for part in ("encoder", "decoder", "t2u_encoder", "t2u_decoder")
        for name, size in (("_layers", 1), ("_ffn_dim", 32), ("_attention_heads", 2))
    }
    model = SeamlessM4Tv2Model(
        SeamlessM4Tv2Config(
            vocab_size=len(pieces) + num_languages + 1,
            t2u_vocab_size=64,
            char_vocab_size=len(letters) + 4,
            hidden_size=16,
            max_position_embeddings=1024,
            t2u_max_position_embeddings=1024,
            **layers,
            speech_encoder_layers=1,
            speech_encoder_attention_heads=2,
            speech_encoder_intermediate_size=16,
            t2u_variance_predictor_embed_dim=16,
            t2u_variance_predictor_hidden_dim=16,
            upsample_initial_channel=32,
            unit_hifi_gan_vocab_size=60,
            unit_embed_dim=16,
            lang_embed_dim=8,
            spkr_embed_dim=8,
            vocoder_num_langs=len(LANGUAGES),
            vocoder_num_spkrs=5,
        )
    ).eval()
    _enliven(model)
    model.generation_config = GenerationConfig(
        bos_token_id=2,
        decoder_start_token_id=3,
        eos_token_id=3,
        pad_token_id=0,
        max_new_tokens=256,
        # Random weights repeat themselves, and do not know when a sentence is over.
        no_repeat_ngram_size=2,
        exponential_decay_length_penalty=(8, 1.5) if ends else None,
        suppress_tokens=[0, 1, 2, *language_tokens.values(), len(pieces) + num_languages] + ([] if ends else [3]),
        text_decoder_lang_to_code_id=language_tokens,
        t2u_lang_code_to_id={code: 64 + i for i, code in enumerate(LANGUAGES)},
        vocoder_lang_code_to_id={code: i for i, code in enumerate(LANGUAGES)},
        id_to_text={str(i): piece for i, piece in enumerate(pieces)},
        char_to_id={char: 4 + i for i, char in enumerate(letters)},
    )
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))


def reference(root: Path, text: str, voice: str, seed: int) -> np.ndarray:
    """The library's own `generate`, as its documentation calls it."""
    import torch
    from transformers import SeamlessM4TTokenizer, SeamlessM4Tv2ForTextToSpeech

    model = SeamlessM4Tv2ForTextToSpeech.from_pretrained(root / MODEL)
    inputs = SeamlessM4TTokenizer.from_pretrained(root / MODEL)(text, src_lang=voice, return_tensors="pt")
    torch.manual_seed(seed)
    return model.generate(**inputs, tgt_lang=voice)[0][0].detach().numpy()


def _enliven(model) -> None:
    """As drawn by the library, the weights leave no trace of the text and of the voice, and are next to silent."""
    import torch

    for part in (model.text_encoder, model.text_decoder, model.t2u_model):
        for name, weight in part.named_parameters():
            if weight.ndim == 2 and "embed" not in name and "lm_head" not in name:
                weight.data.mul_(40.0 if "cross_attention" in name else 15.0)
    model.shared.weight.data.mul_(20.0)
    model.shared.weight.data[3].mul_(0.1)  # The end: unlikely at first.
    model.t2u_model.lm_head.weight.data.mul_(20.0)
    model.t2u_model.lm_head.weight.data[:4].zero_()  # Begin, end and the like: no sounds.
    model.vocoder.unit_embedding.weight.data.mul_(50.0)
    model.vocoder.language_embedding.weight.data.mul_(50.0)
    model.vocoder.speaker_embedding.weight.data.mul_(50.0)
    model.t2u_model.model.decoder.duration_predictor.proj.bias.data.fill_(1.5)  # About three units to a letter.
    for name, weight in model.vocoder.hifi_gan.named_parameters():
        if weight.ndim == 3:
            torch.nn.init.kaiming_normal_(weight, a=0.1)
            weight.data.mul_(0.3 if "conv_post" in name else 1.0)
        else:
            weight.data.zero_()


def _write_tokenizer(folder: Path) -> list[str]:
    """Train one on a few words. Returns the pieces by their ids; the languages come after them."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch, "corpus.txt")
        corpus.write_text(f"{WORDS}\n" * 8 + " ".join(CHARACTERS))
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=f"{scratch}/spm",
            model_type="bpe",
            vocab_size=130,
            hard_vocab_limit=False,
            character_coverage=1.0,
            minloglevel=2,
        )
        (folder / "sentencepiece.bpe.model").write_bytes(Path(scratch, "spm.model").read_bytes())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    pieces = ["<pad>", *(processor.id_to_piece(i) for i in range(len(processor)))]
    languages = [f"__{code}__" for code in (READ_ONLY, *LANGUAGES)]
    special = dict(enumerate(pieces[:4])) | {len(pieces) + i: token for i, token in enumerate([*languages, "<mask>"])}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    named = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "additional_special_tokens": languages,
    }
    config = {
        **named,
        "added_tokens_decoder": {str(i): {"content": token, **flags} for i, token in special.items()},
        "clean_up_tokenization_spaces": True,
        "src_lang": "eng",
        "tgt_lang": "fra",
        "tokenizer_class": "SeamlessM4TTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    added = {token: i for i, token in special.items() if i >= len(pieces)}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return pieces


FAMILY = Family("seamless", MODEL, build, reference)
