"""SpeechT5: the model, its vocoder and an archive of x-vectors, each in a repository of its own."""

import io
import json
import string
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from tests.checkpoints import Family

MODEL = "tiny-org/tiny-speecht5"
VOCODER = "microsoft/speecht5_hifigan"
XVECTORS = "Matthijs/cmu-arctic-xvectors"
UTTERANCES = ("slt_a0001", "slt_a0508", "clb_a0144", "bdl_a0009", "rms_b0353", "jmk_a0001", "awb_a0002", "ksp_b0087")


def build(root: Path, *, stops: bool = True, architecture: str = "SpeechT5ForTextToSpeech") -> None:
    """Write the three repositories. A model that does not stop runs up to whatever bound it is given."""
    import torch
    from transformers import SpeechT5Config, SpeechT5ForTextToSpeech, SpeechT5HifiGan, SpeechT5HifiGanConfig

    torch.manual_seed(0)
    folder = _repository(
        root,
        MODEL,
        library_name="transformers",
        pipeline_tag="text-to-speech",
        tags=["transformers", "pytorch", "speecht5", "text-to-audio", "audio", "text-to-speech", "license:mit"],
        config={"model_type": "speecht5", "architectures": [architecture]},
    )
    vocabulary_size = _write_tokenizer(folder)
    model = SpeechT5ForTextToSpeech(
        SpeechT5Config(
            vocab_size=vocabulary_size,
            hidden_size=24,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            conv_dim=(8,) * 7,
            speech_decoder_prenet_units=16,
            speech_decoder_postnet_units=16,
            speech_decoder_postnet_layers=2,
            max_speech_positions=1876,
            max_text_positions=600,
        )
    ).eval()
    # As drawn by the library, the weights leave no trace of the voice and of the dropout in the speech.
    for weight in model.speecht5.decoder.prenet.parameters():
        if weight.ndim == 2:
            weight.data.mul_(8.0)
    model.speech_decoder_postnet.feat_out.weight.data.mul_(20.0)
    # The dropout ends the speech at a chance of a few percent in every step; or never.
    model.speech_decoder_postnet.prob_out.weight.data.mul_(10.0)
    model.speech_decoder_postnet.prob_out.bias.data.fill_(-2.0 if stops else -100.0)
    _save_pickled(model, folder)

    folder = _repository(root, VOCODER, library_name="transformers", tags=["transformers", "pytorch", "hifigan"])
    vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(upsample_initial_channel=16)).eval()
    for name, weight in vocoder.named_parameters():
        if weight.ndim == 3:  # As drawn by the library, the weights are next to silent.
            torch.nn.init.kaiming_normal_(weight, a=0.1)
            weight.data.mul_(0.3 if "conv_post" in name else 0.7)
    _save_pickled(vocoder, folder)

    folder = _repository(root / "datasets", XVECTORS, tags=["task_categories:text-to-speech", "license:mit"])
    draw = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "spkrec-xvect.zip", "w") as archive:
        for speaker, utterance in (name.split("_") for name in UTTERANCES):
            vector = draw.standard_normal(512).astype(np.float32)
            file = io.BytesIO()
            np.save(file, vector / np.linalg.norm(vector))
            archive.writestr(f"spkrec-xvect/cmu_us_{speaker}_arctic-wav-arctic_{utterance}.npy", file.getvalue())


def reference(root: Path, text: str, voice: str, seed: int) -> np.ndarray:
    """The library's own `generate`, as its documentation calls it."""
    import torch
    from transformers import SpeechT5ForTextToSpeech, SpeechT5HifiGan, SpeechT5Tokenizer

    model = SpeechT5ForTextToSpeech.from_pretrained(root / MODEL)
    vocoder = SpeechT5HifiGan.from_pretrained(root / VOCODER)
    tokens = SpeechT5Tokenizer.from_pretrained(root / MODEL)(text, return_tensors="pt").input_ids
    utterance = next(name for name in UTTERANCES[1:] if name.startswith(voice))
    speaker, number = utterance.split("_")
    with zipfile.ZipFile(root / "datasets" / XVECTORS / "spkrec-xvect.zip") as archive:
        member = archive.read(f"spkrec-xvect/cmu_us_{speaker}_arctic-wav-arctic_{number}.npy")
    embedding = torch.from_numpy(np.load(io.BytesIO(member)))[None]
    torch.manual_seed(seed)
    return model.generate(tokens, speaker_embeddings=embedding, vocoder=vocoder).numpy()


def _repository(root: Path, name: str, **info: object) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / ".hub.json").write_text(json.dumps({"info": info}))
    return folder


def _save_pickled(model, folder: Path) -> None:
    """The real repositories hold pickles, which the library writes no more."""
    import torch

    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def _write_tokenizer(folder: Path) -> int:
    """A token for each character; like the real one it knows no digits."""
    import sentencepiece
    from transformers import SpeechT5Tokenizer

    characters = string.ascii_letters + ".,'?!-"
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch, "corpus.txt")
        corpus.write_text("\n".join(characters))
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=f"{scratch}/spm_char",
            model_type="char",
            vocab_size=len(characters) + 8,
            hard_vocab_limit=False,
            character_coverage=1.0,
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            minloglevel=2,
        )
        (folder / "spm_char.model").write_bytes(Path(scratch, "spm_char.model").read_bytes())
    tokenizer = SpeechT5Tokenizer(str(folder / "spm_char.model"), model_max_length=600)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


FAMILY = Family("speecht5", MODEL, build, reference)
