"""Engine `dia`: dialogue models that write rows of codec tokens, streamed while they write; knows no scheduling.

A Dia decoder makes one token for each of the nine codebooks of the Descript Audio Codec (DAC, Kumar et al. 2023) per
step, each codebook some steps behind the first (MusicGen's delay pattern, Copet et al. 2023). So a codec frame is
complete once the slowest codebook has arrived, and it can be decoded once the frames that the codec looks ahead at
have arrived too. Complete frames are decoded in windows with that many frames of context on either side, which gives
the samples of one decoding of the whole.

Dia has no fixed voices: who speaks follows from the seed, and from the tags `[S1]` and `[S2]` in the text for the
speakers of a dialogue. Text that begins with no tag is given to `[S1]`. Sounds in round brackets, such as `(laughs)`,
are performed.

A recording that is to be imitated is continued: its transcript goes before the text, and its tokens are the first rows.
They take up the room that the text would have, half a minute in all, so a long recording makes for short pieces of
text.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.audio import Trimmer
from worker.engines.base import (
    Card,
    Checkpoint,
    HubModel,
    Model,
    Part,
    Reference,
    Samples,
    SegmentLimits,
    Settings,
    Voice,
)
from worker.engines.recordings import Recordings
from worker.engines.stepwise import Noise, TorchEngine, from_disk, place, seed_of, stepwise
from worker.errors import UnspeakableText, UnsupportedModel, UnsupportedOption
from worker.text.phonemes import quote
from worker.text.segment import segment

if TYPE_CHECKING:
    import torch

FIRST_WINDOW = 8
LONGEST_WINDOW = 64
"""Frames decoded at once: few at first, for early audio; more later, since the context costs the same for all."""

FEWEST_TOKENS = 5
"""Least `top_k`: up to four of the likeliest tokens are special ones, which are ruled out where they make no sense."""

SHORTEST_PIECE = 30
"""Characters of text for which there must be room after a recording."""

_TAG = re.compile(r"\[S\d\]")


class DiaEngine(TorchEngine):
    """Runs `nari-labs/Dia-1.6B-0626` and its like, in the layout of transformers."""

    name = "dia"

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """By the model type of transformers; the first Dia repositories, which have none, are of another layout."""
        return model.model_type == "dia"

    @classmethod
    def parts(cls, checkpoint: Checkpoint) -> Sequence[Part]:
        """The codec, which the processor's configuration names.

        Raises:
            UnsupportedModel: It names none.
        """
        return (Part(_codec_name(checkpoint), files=("config.json", "*.safetensors")),)

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> DiaModel:
        """Load the model and its codec.

        Raises:
            UnsupportedModel: The codec cannot be decoded in windows.
        """
        import transformers

        library: Any = transformers  # Which is typed in parts only.
        model = from_disk(library.DiaForConditionalGeneration, checkpoint.folder, device)
        codec = from_disk(library.DacModel, checkpoint.parts[_codec_name(checkpoint)], device)
        if any(ratio % 2 for ratio in codec.config.upsampling_ratios):
            raise UnsupportedModel(
                f"the codec of {checkpoint.name!r} upsamples by {list(codec.config.upsampling_ratios)}; with an odd "
                "ratio its frames have no fixed length, and only even ones are served",
                field="model",
            )
        processor = library.DiaProcessor(
            library.DiaFeatureExtractor.from_pretrained(checkpoint.folder, local_files_only=True),
            library.DiaTokenizer.from_pretrained(checkpoint.folder, local_files_only=True),
            codec,  # Loaded by hand: `DiaProcessor.from_pretrained` would ask the hub for it by its name.
        )
        return DiaModel(place(model, device), place(codec, device), processor, checkpoint.revision, device)


class DiaModel(Model):
    """Speaks English dialogue.

    Args:
        model: `DiaForConditionalGeneration`.
        codec: `DacModel`.
        processor: `DiaProcessor`.
        revision: Of the checkpoint.
        device: Where they are.
    """

    # Frames stream at once, so a first segment has no need to be short; and a speaker is kept within a segment only.
    limits = SegmentLimits(first=400, longest=400, joins=True)

    def __init__(self, model: Any, codec: Any, processor: Any, revision: str, device: str) -> None:  # noqa: ANN401
        self._model, self._codec, self._processor, self._device = model, codec, processor, device
        self._delays: list[int] = list(model.config.delay_pattern)
        self._hop_length: int = math.prod(codec.config.upsampling_ratios)
        self.card = Card(
            sample_rate_hz=codec.config.sampling_rate,
            voices=[Voice("default", "Default", "en")],
            revision=revision,
            options=_options(model.generation_config),
            cloning="audio and transcript",
        )
        self._recordings = Recordings(processor.feature_extractor.sampling_rate, self._encode)

    def check(self, text: str, voice: str) -> None:
        """Refuse letters of other scripts than the Latin one, which the model knows only as bytes, and empty text.

        Raises:
            UnspeakableText: Names the characters.
        """
        spoken = _TAG.sub("", text)
        strange = [char for char in dict.fromkeys(spoken) if char.isalnum() and not _is_latin(char)]
        if strange:
            raise UnspeakableText(f"the model speaks English and cannot say {quote(strange)}", field="input")
        if not any(char.isalnum() for char in spoken):
            raise UnspeakableText(f"there is nothing to say in {text.strip()[:40]!r}", field="input")

    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        """Speak one segment; every step is one row of tokens, and gives audio if that completes a window.

        All segments start from the utterance's seed: without a recording the model has no other way to keep a speaker
        (its model card says to fix the seed), though it may change with the text even so.
        """
        recording = yield from self._recordings.of(settings.reference)
        if not settings.reference or recording is None:
            yield from self._continue(text, settings, settings.seed, {})
            return
        longest = self._longest_piece(settings.reference, recording)
        pieces = segment(" ".join(text.split()), "en", first=longest, longest=longest, joins=True)
        pause_s = 0.0
        for piece in pieces:
            if pause_s:
                yield np.zeros(round(pause_s * self.card.sample_rate_hz), np.float32)
            yield from self._continue(piece.text, settings, seed_of(settings, index), recording)
            pause_s = piece.ends_at.value

    def _continue(
        self, text: str, settings: Settings, seed: int, recording: Mapping[str, torch.Tensor]
    ) -> Iterator[Samples]:
        """Speak what the model can take at once.

        The rows of the recording are not among those that the decoder gets, though where the slower codebooks are
        behind it still determines some tokens: these are of frames before the first one.
        """
        decoder = DelayedDecoder(self._codec, self._delays, self._model.config.decoder_config.eos_token_id)
        trimmer = Trimmer(self.card.sample_rate_hz)
        call = partial(self._generate, text, settings, recording)
        for row in stepwise(call, Noise(seed, self._device)):
            yield trimmer.feed(decoder.push(row))
        yield np.concatenate([trimmer.feed(decoder.flush()), trimmer.flush()])

    def _encode(self, samples: Samples) -> dict[str, torch.Tensor]:
        """Make rows of a recording: what the processor gives to the decoder, whatever the text."""
        rate_hz = self._processor.feature_extractor.sampling_rate
        # Audio is padded to whole frames; to pad the text, too, makes the library warn that there is nothing to pad to.
        inputs = self._processor(
            text=["[S1]"],
            audio=[samples],
            text_kwargs={"padding": False},
            audio_kwargs={"sampling_rate": rate_hz},
            return_tensors="pt",
        )
        return {name: inputs[name] for name in ("decoder_input_ids", "decoder_attention_mask")}

    def _generate(
        self,
        text: str,
        settings: Settings,
        recording: Mapping[str, torch.Tensor],
        emit: Callable[[torch.Tensor], None],
    ) -> None:
        spoken = _tagged(text)
        if settings.reference:
            spoken = f"{_tagged(settings.reference.transcript)} {spoken}"
        inputs = self._processor(text=[spoken], padding=False, return_tensors="pt")
        inputs.update(recording)
        inputs = inputs.to(self._device)
        streamer = _RowStreamer(emit, self._model, len(self._delays))
        bound_s = self.limits.bound_s(text, settings.speed)
        bound = math.ceil(bound_s * self.card.sample_rate_hz / self._hop_length) + max(self._delays) + 1
        most_rows = min(self._room(recording), bound)
        self._model.generate(**inputs, **settings.options, max_new_tokens=most_rows, streamer=streamer)

    def _room(self, recording: Mapping[str, torch.Tensor]) -> int:
        """Rows after which the model stops by itself."""
        config = self._model.generation_config
        # To a `max_length` of the checkpoint the library adds the delays.
        longest: int = config.max_length or self._model.config.decoder_config.max_position_embeddings
        room = int(config.max_new_tokens or longest + max(self._delays))
        # A recording's mask has the row that begins everything, too, and room for the delays.
        taken = len(recording["decoder_attention_mask"][0]) - 1 - max(self._delays) if recording else 0
        return max(0, room - taken)

    def _longest_piece(self, reference: Reference, recording: Mapping[str, torch.Tensor]) -> int:
        """Characters that can follow a recording: spoken slowly they end within the model's rows and bytes.

        Raises:
            UnsupportedOption: They are too few.
        """
        room = self._room(recording) - max(self._delays) - 1
        room_s = room * self._hop_length / self.card.sample_rate_hz
        by_rows = int(room_s / self.limits.patience_s_per_char * 3)  # What is allowed is thrice what slow speech takes.
        tags = len("[S1]  [S1] ")
        bytes_taken = len(_tagged(reference.transcript).encode()) + tags
        by_bytes: int = self._model.config.encoder_config.max_position_embeddings - bytes_taken
        longest = min(self.limits.longest, by_rows, by_bytes)
        if longest < SHORTEST_PIECE:
            recording_s = len(reference.samples) / reference.sample_rate_hz
            raise UnsupportedOption(
                f"the voice {reference.voice!r} is too long for the model: {recording_s:.1f} s and a transcript of "
                f"{len(reference.transcript)} characters leave no room for the text; a shorter recording would",
                field="voice",
            )
        return longest


class _RowStreamer:
    """Hands the rows of `generate` over; of transformers' streamers it has the two methods that are called.

    Args:
        emit: Takes a row, int64 [C].
        model: Who generates.
        num_codebooks: C.
    """

    def __init__(self, emit: Callable[[torch.Tensor], None], model: Any, num_codebooks: int) -> None:  # noqa: ANN401
        self._emit, self._model, self._num_codebooks = emit, model, num_codebooks
        self._is_prompt = True

    def put(self, tokens: torch.Tensor) -> None:
        """Take what `generate` has made, int64 [C]; at first the prompt, int64 [1, C, 1], which is passed over."""
        if self._is_prompt:
            self._is_prompt = False
            return
        # `generate` keeps this in the model, where another utterance may overwrite it while this one waits.
        uses_guidance = self._model._uses_cfg
        self._emit(tokens.reshape(self._num_codebooks))
        self._model._uses_cfg = uses_guidance

    def end(self) -> None:
        """Do nothing: the end of the call says it."""


class DelayedDecoder:
    """Turns delayed rows of codec tokens into samples while they come.

    Args:
        codec: `DacModel`; its upsampling ratios are even.
        delays: Rows by which each codebook is behind, the first one 0.
        end: Token of the first codebook that ends the frames.
    """

    def __init__(self, codec: Any, delays: Sequence[int], end: int) -> None:  # noqa: ANN401
        self._codec, self._delays, self._end = codec, delays, end
        self._halo = dac_halo(codec.config.upsampling_ratios)
        self._hop_length: int = math.prod(codec.config.upsampling_ratios)
        self._rows: list[torch.Tensor] = []
        self._num_frames: int | None = None  # Known when the first codebook has ended.
        self._given = 0
        self._window = FIRST_WINDOW

    def push(self, row: torch.Tensor) -> Samples:
        """Take the next row.

        Args:
            row: int64 [C].

        Returns:
            float32 [S]: the samples of a window, or none.
        """
        if self._num_frames is None and int(row[0]) == self._end:
            self._num_frames = len(self._rows)
        self._rows.append(row)
        stop = self._given + self._window
        if stop + self._halo > self._num_complete():
            return np.zeros(0, np.float32)
        self._window = min(2 * self._window, LONGEST_WINDOW)
        return self._decode(stop)

    def flush(self) -> Samples:
        """Decode the rest; no row follows.

        Returns:
            float32 [S].
        """
        return self._decode(self._num_complete())

    def _num_complete(self) -> int:
        complete = len(self._rows) - max(self._delays)
        return max(0, complete if self._num_frames is None else min(complete, self._num_frames))

    def _decode(self, stop: int) -> Samples:
        import torch

        if stop <= self._given:
            return np.zeros(0, np.float32)
        first, last = max(0, self._given - self._halo), min(stop + self._halo, self._num_complete())
        rows = torch.stack(self._rows[first : last + max(self._delays)])
        codes = torch.stack([rows[delay : delay + last - first, k] for k, delay in enumerate(self._delays)])
        # A copy to the device at every window and not at every row, for each waits for the device.
        audio = self._codec.decode(audio_codes=codes[None].to(self._codec.device)).audio_values.flatten()
        start = (self._given - first) * self._hop_length
        samples: Samples = audio[start : start + (stop - self._given) * self._hop_length].float().cpu().numpy()
        self._given = stop
        return samples


def dac_halo(upsampling_ratios: Sequence[int]) -> int:
    """How many frames on either side a frame's samples depend on, in the decoder of the DAC.

    It is a convolution of width 7, then for each ratio r a transposed one of width 2 r and stride r and three residual
    units of width 7 and dilations 1, 3 and 9, and last a convolution of width 7.

    Args:
        upsampling_ratios: In the order of the decoder.

    Returns:
        Frames, 10 for (8, 8, 4, 2).
    """
    edge, units = 3, 3 * (1 + 3 + 9)
    first, last = -edge, math.prod(upsampling_ratios) - 1 + edge
    for ratio in reversed(upsampling_ratios):
        first, last = first - units, last + units
        padding = math.ceil(ratio / 2)
        first, last = math.ceil((first + padding - (2 * ratio - 1)) / ratio), (last + padding) // ratio
    return max(edge - first, last + edge)


def _codec_name(checkpoint: Checkpoint) -> str:
    """The codec's repository: transformers once wrote it to a file of its own, now to the processor's."""
    for file in ("audio_tokenizer_config.json", "processor_config.json"):
        path = checkpoint.folder / file
        config = json.loads(path.read_text()) if path.exists() else {}
        if name := config.get("audio_tokenizer", config).get("audio_tokenizer_name_or_path"):
            return str(name)
    raise UnsupportedModel(
        f"{checkpoint.name!r} does not say which codec its tokens are of; processor_config.json would name it",
        field="model",
    )


def _tagged(text: str) -> str:
    """Put text on one line, and give it to a speaker if it names none."""
    spoken = " ".join(text.split())
    return spoken if _TAG.match(spoken) else f"[S1] {spoken}"


def _is_latin(char: str) -> bool:
    return char.isascii() or unicodedata.name(char, "").startswith("LATIN")


def _options(config: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    """Describe what a request may set, with the checkpoint's own values as defaults."""
    return {
        "guidance_scale": {
            "type": "number",
            "minimum": 1,
            "maximum": 10,
            "default": config.guidance_scale or 1.0,
            "description": "how closely the speech follows the text (classifier-free guidance); 1 is off",
        },
        "temperature": {
            "type": "number",
            "minimum": 1,
            "maximum": 3,
            "default": max(1.0, config.temperature or 1.0),
            "description": "liveliness; the model knows no temperature under 1",
        },
        "top_p": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
            "default": config.top_p or 1.0,
            "description": "share of the probability that tokens are drawn from",
        },
        "top_k": {
            "type": "integer",
            "minimum": FEWEST_TOKENS,
            "maximum": 1024,
            "default": config.top_k or 50,
            "description": "number of the likeliest tokens that are drawn from",
        },
    }
