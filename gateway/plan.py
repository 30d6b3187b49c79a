"""What a request for speech means here: which model, voice and format; and the call that says so to a worker."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from gateway.audio.encode import Encoder, encoder, rates_of
from gateway.catalogue import Catalogue
from gateway.errors import ApiError
from gateway.fleet.fleet import Fleet
from gateway.fleet.speech import Speech
from gateway.schema import SpeechOptions
from gateway.settings import Settings
from gateway.voices import VoiceStore
from protos.tts.v1 import speech_pb2

AUDIO_TOKENS_PER_S = 20

MARK_KINDS = {speech_pb2.MARK_KIND_SEGMENT: "segment", speech_pb2.MARK_KIND_WORD: "word"}


class Plan:
    """How something is to be spoken, resolved once for all texts that are to be spoken so.

    Args:
        asked: What the client wants.
        owner: Who asks: whose custom voices may be used, and with whom others take turns.
        catalogue: Names of models and voices.
        voices: Custom voices.
        settings: Defaults and bit rates.

    Attributes:
        model: Id of the model.
        format: Name of the format.

    Raises:
        ApiError: The format cannot carry the rate.
    """

    def __init__(
        self, asked: SpeechOptions, owner: str, catalogue: Catalogue, voices: VoiceStore, settings: Settings
    ) -> None:
        self.model = catalogue.model_name(asked.model)
        self.format = asked.response_format or asked.format or settings.default_format
        self._asked = asked
        self._settings = settings
        self._owner = owner
        self._voice, self._voice_place = catalogue.voice(asked.voice_name)
        self._reference = voices.find(owner, asked.voice_name)
        self._aliases = catalogue.voice_aliases
        rates = rates_of(self.format)
        if asked.sample_rate is not None and asked.sample_rate not in rates:
            raise ApiError(
                "INVALID_REQUEST",
                f"`sample_rate` is {asked.sample_rate}; {self.format} carries {', '.join(map(str, rates))} Hz",
                param="sample_rate",
            )

    def speak(
        self, fleet: Fleet, text: str, request_id: str, segments_before: int = 0, *, is_live: bool = True
    ) -> Speech:
        """Prepare the call; `Speech.open` begins it, `Speech.cancel` must end it.

        Args:
            fleet: Who may speak.
            text: What to say.
            request_id: Found again in the logs.
            segments_before: Segments of the same text that earlier calls have spoken.
            is_live: Whether somebody listens meanwhile; not where all of it is gathered before it is sent.
        """
        timeout = Duration()
        timeout.FromMilliseconds(round(1000 * self._settings.first_audio_timeout_s))
        request = speech_pb2.SynthesizeRequest(
            request_id=request_id,
            model=self.model,
            input=text,
            speed=self._asked.speed,
            nearest_speed=True,
            seed=self._asked.seed,
            language=self._asked.language or "",
            instructions=self._asked.instructions or "",
            first_audio_timeout=timeout,
            segments_before=segments_before,
            tenant=self._owner,
            delivery=speech_pb2.DELIVERY_LIVE if is_live else speech_pb2.DELIVERY_WHOLE,
        )
        if self._asked.options:
            request.options.CopyFrom(_struct(self._asked.options))
        if self._reference:
            request.reference.CopyFrom(
                speech_pb2.ReferenceAudio(
                    voice=self._reference.id,
                    pcm=self._reference.pcm,
                    sample_rate_hz=self._reference.sample_rate_hz,
                    transcript=self._reference.transcript,
                )
            )
        else:
            request.voice = self._voice
            if self._voice_place is not None:
                request.voice_place = self._voice_place
        return fleet.speech(request)

    def encoder(self, header: speech_pb2.StreamHeader, rate_hz: int | None = None) -> Encoder:
        """Make what turns the worker's PCM into the format asked for.

        Args:
            header: What the worker says of the PCM.
            rate_hz: Rate of the result if the client names none; that of the PCM, or what the format has next to it,
                if that is None too.
        """
        return encoder(
            self.format,
            header.format.sample_rate_hz,
            rate_hz=self._asked.sample_rate or rate_hz,
            tempo=self.tempo(header),
            kbps=self._settings.kbps,
        )

    def usage(self, text: str, spoken: Speech) -> dict[str, int]:
        """Count the tokens of a text and of its speech."""
        return usage(len(text), self.heard_s(spoken.header, spoken.num_samples))

    def heard_s(self, header: speech_pb2.StreamHeader, sample: int) -> float:
        """When a sample of the worker's is heard, in seconds from the first."""
        return sample / header.format.sample_rate_hz / self.tempo(header)

    def mark(
        self, mark: speech_pb2.Mark, header: speech_pb2.StreamHeader, *, first_sample: int = 0, first_char: int = 0
    ) -> dict[str, object]:
        """Write a mark as JSON: where it is in the text, and when in the audio as it is heard.

        Args:
            mark: Of one call.
            header: Of that call.
            first_sample: Where the call's audio begins within the whole.
            first_char: Where the call's text begins within the whole.
        """

        def ms(sample: int) -> int:
            return round(1000 * self.heard_s(header, first_sample + sample))

        return {
            "kind": MARK_KINDS.get(mark.kind, "segment"),
            "text_start": first_char + mark.text_start,
            "text_end": first_char + mark.text_end,
            "start_ms": ms(mark.first_sample),
            "end_ms": ms(mark.end_sample) if mark.HasField("end_sample") else None,
        }

    def tempo(self, header: speech_pb2.StreamHeader) -> float:
        """What the model could not do of the pace."""
        tempo = (self._asked.speed or 1.0) / header.speed
        # On the wire a pace has 32 bits: a model that speaks at 1.2, as asked, says 1.2000000477.
        return 1.0 if math.isclose(tempo, 1.0, rel_tol=1e-6) else tempo

    def explain(self, error: ApiError) -> ApiError:
        """Add to a worker's error what only the gateway knows."""
        if error.reason == "VOICE_NOT_FOUND" and self._aliases:
            error.message += f"; OpenAI's names work too: {', '.join(self._aliases)}"
        if error.reason == "UNSUPPORTED_OPTION" and error.param in self._asked.options:
            error.message += f"; beside options of the model a request has {', '.join(type(self._asked).model_fields)}"
        return error


def usage(chars: int, audio_s: float) -> dict[str, int]:
    """Count tokens in OpenAI's sense: in the text one for each character, in the audio one for each 50 ms."""
    audio_tokens = math.ceil(audio_s * AUDIO_TOKENS_PER_S)
    return {"input_tokens": chars, "output_tokens": audio_tokens, "total_tokens": chars + audio_tokens}


def _struct(options: dict[str, Any]) -> Struct:
    struct = Struct()
    struct.update(options)
    return struct
