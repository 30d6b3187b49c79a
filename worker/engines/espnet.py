"""Engine `espnet`: VITS models of ESPnet such as `espnet/kan-bayashi_ljspeech_vits`, without ESPnet.

ESPnet keeps a model as a YAML configuration and a state dict, with the network's parameters, the list of tokens and the
way from text to them in the former. The weights are mapped into transformers' `VitsModel`, which speaks as the engine
`vits` does; English phonemes come from our own reader, in the alphabet that these models were trained with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from worker.engines.base import Checkpoint, HubModel
from worker.engines.stepwise import TorchEngine
from worker.engines.vits import Frontend, Vits, spell
from worker.engines.vits_network import Network
from worker.errors import UnsupportedModel
from worker.text.arpabet import restress, to_arpabet, unreadable
from worker.text.normalise import normalise

G2P = "g2p_en_no_space"
"""The one way from text to phonemes that is served: ARPAbet, nothing between the words."""

AVERAGED = "*ave*.pth"
"""Weights averaged over the best epochs, beside those of single epochs."""

_SERVED = re.compile(rf"|char(_.*)?|phn_(tacotron|none)_{G2P}(_.*)?", re.IGNORECASE)
"""What the name of a recipe may say of the text that it reads; some say nothing."""


class EspnetEngine(TorchEngine):
    """Runs checkpoints of ESPnet2's `VITS`."""

    name = "espnet"

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """Claim speech models with a VITS recipe; ESPnet keeps other families the same way."""
        return model.library == "espnet" and "text-to-speech" in model.tags and bool(_recipes(model.files))

    @classmethod
    def refuse(cls, model: HubModel) -> str:
        """Refuse the ways from text to tokens that are not served, which the name of the recipe's folder tells."""
        reads = [_reads(recipe) for recipe in _recipes(model.files)]
        if reads and not any(map(_SERVED.fullmatch, reads)):
            return f"its recipe reads {reads[0]!r}; only phonemes (phn) of {G2P!r} and characters (char) are served"
        return super().refuse(model)

    @classmethod
    def files(cls, model: HubModel) -> Sequence[str]:
        """Ask for the configuration and the averaged weights, and not for the statistics and plots beside them."""
        asked = ["meta.yaml"]
        for recipe in _recipes(model.files):
            has_average = any(fnmatch(path, f"{recipe}/{AVERAGED}") for path in model.files)
            asked += [f"{recipe}/config.yaml", f"{recipe}/{AVERAGED if has_average else '*.pth'}"]
        return asked

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> Vits:
        """Read the configuration, map the weights.

        Raises:
            UnsupportedModel: The network or the text front end is of a kind that is not served.
        """
        import torch
        import yaml

        config_path, weights_path = _locate(checkpoint.folder)
        config = yaml.safe_load(config_path.read_text(encoding="utf-8"))
        details = config["tts_conf"]
        kind = details.get("generator_type", "vits_generator")
        if config["tts"] != "vits" or kind != "vits_generator":
            raise UnsupportedModel(f"it is an ESPnet model of the kind {config['tts']!r} ({kind!r})", field="model")
        frontend = _frontend(config)

        from worker.engines.espnet_vits import build  # Which needs torch and transformers to be defined.

        weights = torch.load(weights_path, map_location="cpu", weights_only=True)
        rate_hz = details.get("sampling_rate", 22_050)
        network = build(details.get("generator_params", {}), len(config["token_list"]), rate_hz, weights)
        return Vits(Network(network, device, checkpoint.vocoder_dtype), frontend, checkpoint.revision)


def _recipes(files: Sequence[str]) -> Sequence[str]:
    """Find the folders `exp/tts_..._vits_...` with a configuration among a repository's files."""
    folders = [PurePosixPath(path).parent for path in files if PurePosixPath(path).name == "config.yaml"]
    return [str(folder) for folder in folders if folder.parts[:1] == ("exp",) and "vits" in folder.name]


def _reads(recipe: str) -> str:
    """What a recipe reads: `phn_tacotron_g2p_en_no_space` of `exp/tts_train_vits_raw_phn_tacotron_g2p_en_no_space`."""
    return PurePosixPath(recipe).name.partition("_raw_")[2]


def _locate(folder: Path) -> tuple[Path, Path]:
    """Find the configuration and the weights as meta.yaml names them, or else by where they always are."""
    import yaml

    meta_path = folder / "meta.yaml"
    meta = yaml.safe_load(meta_path.read_text(encoding="utf-8")) if meta_path.exists() else {}
    config = (meta.get("yaml_files") or {}).get("train_config")
    weights = (meta.get("files") or {}).get("model_file")
    if config and weights:
        return _inside(folder, config), _inside(folder, weights)
    recipes = [path for path in sorted(folder.glob("exp/*/config.yaml")) if "vits" in path.parent.name]
    found = [
        (path, weights)
        for path in recipes
        for weights in sorted(path.parent.glob(AVERAGED)) or sorted(path.parent.glob("*.pth"))
    ]
    if not found:
        raise UnsupportedModel("it has no exp/*vits*/config.yaml with weights (.pth) beside it", field="model")
    return found[0]


def _inside(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UnsupportedModel(f"its meta.yaml names {name!r}, which is none of its own files", field="model")
    return folder / path


def _frontend(config: Mapping[str, Any]) -> Frontend:
    kind, g2p, cleaner = config.get("token_type"), config.get("g2p"), config.get("cleaner")
    if cleaner not in (None, "tacotron"):
        raise UnsupportedModel(
            f"its text goes through the cleaner {cleaner!r}; only 'tacotron' is served", field="model"
        )
    if kind == "phn" and g2p == G2P:
        return PhonemeFrontend(config["token_list"])
    if kind == "char":
        return CharacterFrontend(config["token_list"], "en" if cleaner == "tacotron" else "und")
    what = f"phonemes of {g2p!r}" if kind == "phn" else f"tokens of the type {kind!r}"
    raise UnsupportedModel(f"it was trained with {what}; only {G2P!r} and characters are served", field="model")


class PhonemeFrontend(Frontend):
    """Reads English as ARPAbet.

    Args:
        tokens: The tokens, in the order of their ids.
    """

    language = "en-US"

    def __init__(self, tokens: Sequence[str]) -> None:
        self._ids = {token: k for k, token in enumerate(tokens)}
        to_arpabet("Ready.")  # The dictionaries take half a second to load, once.

    def tokenize(self, text: str) -> list[int]:
        tokens = [known for token in to_arpabet(text) if (known := restress(token, self._ids))]
        return [self._ids[token] for token in tokens] if any(token.isalnum() for token in tokens) else []

    def lost(self, text: str) -> Sequence[str]:
        return unreadable(text)


class CharacterFrontend(Frontend):
    """Reads characters.

    Args:
        tokens: The tokens, in the order of their ids.
        language: BCP 47 tag of what they spell.
    """

    def __init__(self, tokens: Sequence[str], language: str) -> None:
        self.language = language
        self._ids = {token.replace("<space>", " "): k for k, token in enumerate(tokens)}

    def tokenize(self, text: str) -> list[int]:
        spelled, _ = spell(self._clean(text), self._ids)
        return [self._ids[char] for char in spelled] if any(map(str.isalnum, spelled)) else []

    def lost(self, text: str) -> Sequence[str]:
        return spell(self._clean(text), self._ids)[1]

    def _clean(self, text: str) -> str:
        """Spell numbers out and replace signs as ESPnet's cleaner `tacotron` does."""
        text = normalise(text, self.language)
        return re.sub(r"[;:]", ",", text).replace("-", " ") if self.language == "en" else text
