"""Drives torch models one step at a time, each utterance with random numbers of its own; knows no model family.

A library's `generate` runs to its end and hands its frames to a callback. Here such a call runs in a coroutine
(a greenlet) on the device thread: the callback suspends it, the next step resumes it, and closing the iterator ends it
where it stands. No thread is spent on it, and whoever drives it decides who is served when.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

from worker.engines.base import Engine, HubModel, Settings
from worker.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

TORCH_WEIGHTS = (".safetensors", ".bin", ".pth")
"""Ends of the names of files that the engines load."""

CONVERTED = ("mlx", "mlx-audio", "bitsandbytes", "gptq", "awq", "compressed-tensors")
"""Libraries and tags of repositories whose safetensors hold other tensors than the model has."""

_ALWAYS_FLOAT32 = re.compile(r"(^|[._])(inv_freq|freqs?)$")
"""Names of buffers with frequencies, which the libraries compute in float32 whatever the weights are in."""

_GENERATORS = threading.RLock()


class TorchEngine(Engine):
    """Base of the engines that load torch modules."""

    requires: ClassVar[Sequence[str]] = ("torch", "transformers")
    extra: ClassVar[str] = "torch"

    @classmethod
    def refuse(cls, model: HubModel) -> str:
        """Refuse conversions for other runtimes, which keep the configuration, and weights in other numbers."""
        if tags := [tag for tag in CONVERTED if tag in (model.library, *model.tags)]:
            return f"its weights are converted ({tags[0]}); only unquantised torch weights are served"
        if model.files and not any(path.endswith(TORCH_WEIGHTS) for path in model.files):
            return f"its repository holds no torch weights ({', '.join(TORCH_WEIGHTS)})"
        return ""

    @classmethod
    def loading(cls) -> AbstractContextManager[object]:
        """Silence the libraries, and keep the initial weights of modules from disturbing what is being spoken.

        They are drawn from torch's global generator, which an utterance on the device thread may be using just now.
        Function modes belong to a thread; this one gives every draw on the loading thread a generator of its own.
        """
        import torch
        import transformers
        import transformers.generation
        import transformers.modeling_utils  # What every load imports is no part of the memory that a model takes.

        transformers.logging.disable_progress_bar()
        transformers.logging.set_verbosity_error()
        return drawing_from(torch.Generator().manual_seed(0))


def drawing_from(generator: torch.Generator) -> AbstractContextManager[object]:
    """Context in which all that is drawn on this thread, on the generator's device, is drawn from it.

    Function modes belong to a thread: what others draw meanwhile is not touched. Every call of torch's Python functions
    takes some microseconds more.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    takes_generator = {torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli}
    takes_generator |= {torch.rand_like, torch.randn_like}
    takes_generator |= {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.bernoulli_}
    # Seen as a whole, with all their arguments by name; what they call in turn is not seen any more.
    takes_generator |= {torch.nn.init.normal_, torch.nn.init.uniform_, torch.nn.init.kaiming_uniform_}

    class OwnGenerator(TorchFunctionMode):
        def __torch_function__(
            self,
            function: Callable[..., Any],
            types: object,
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:  # noqa: ANN401  # Whatever torch's function returns.
            kwargs = dict(kwargs or {})
            if function in takes_generator and kwargs.get("generator") is None:
                filled = args[0] if args else kwargs.get("tensor")
                device = filled.device if isinstance(filled, torch.Tensor) else kwargs.get("device") or "cpu"
                if torch.device(device).type == generator.device.type:
                    kwargs["generator"] = generator
            return function(*args, **kwargs)

    return OwnGenerator()


class Noise:
    """The state of torch's global random generators that belongs to one utterance; a context manager.

    Inside the context the generators go on where they stood when it was left last, whatever others have drawn in
    between. So the same seed gives the same samples, and those of the library itself after `torch.manual_seed`. The
    generators belong to the process: threads wait for each other here.

    Args:
        seed: Starts the generators.
        device: Where the model is.
    """

    def __init__(self, seed: int, device: str) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        self._mine = [torch.Generator().manual_seed(seed).get_state()]
        if self._device.type == "cuda":
            self._mine.append(torch.Generator(self._device).manual_seed(seed).get_state())

    def __enter__(self) -> Self:
        _GENERATORS.acquire()
        self._others = self._swap(self._mine)
        return self

    def __exit__(self, *_: object) -> None:
        self._mine = self._swap(self._others)
        _GENERATORS.release()

    def _swap(self, new: list[torch.Tensor]) -> list[torch.Tensor]:
        old = [self._torch.get_rng_state()]
        self._torch.set_rng_state(new[0])
        if self._device.type == "cuda":
            old.append(self._torch.cuda.get_rng_state(self._device))
            self._torch.cuda.set_rng_state(new[1], self._device)
        return old


def seed_of(settings: Settings, index: int) -> int:
    """Seed of one segment of an utterance: the first one has the utterance's own, the others one derived from it."""
    if not index:
        return settings.seed
    return int(np.random.SeedSequence([settings.seed, index]).generate_state(1, np.uint64)[0])


def stepwise(call: Callable[[Callable[[T], None]], object], noise: Noise) -> Generator[T]:
    """Turn a call that hands results to a callback into an iterator over them.

    Args:
        call: Called with the callback. It is suspended inside the callback, and `GreenletExit` is raised there when the
            iterator is closed.
        noise: Random numbers of the call.

    Yields:
        What the callback was given.
    """
    import greenlet

    def emit(item: T) -> None:
        task.parent.switch(item)

    task = greenlet.greenlet(lambda: call(emit))
    try:
        while True:
            task.parent = greenlet.getcurrent()
            with noise:
                item = task.switch()
            if task.dead:
                return
            yield item
    finally:
        if not task.dead:
            task.parent = greenlet.getcurrent()
            with noise:
                task.throw(greenlet.GreenletExit)


def place(model: Any, device: str) -> Any:  # noqa: ANN401  # A library's own class.
    """Make a torch module ready to speak: on the device, in evaluation mode, and without gradients.

    Gradients are switched off in the parameters and not in the thread, since utterances are suspended in the middle of
    a library's own `no_grad`, and the mode of the thread would leak from one into the other.

    The attention of cuDNN is switched off, for all models: it prepares itself for every new shape, some 90 ms for each,
    and speech that grows by a frame has many.
    """
    if device != "cpu":
        import torch

        torch.backends.cuda.enable_cudnn_sdp(False)
    return model.eval().requires_grad_(False).to(device)


def from_disk(cls: Any, folder: Path, device: str, **more: Any) -> Any:  # noqa: ANN401  # A library's own class.
    """Load a model of transformers: in float32 for the CPU, else in the numbers that its config.json names.

    It is built in float32 and converted afterwards. To build it in other numbers, transformers would change the default
    type of the whole process, and so that of tensors which an utterance makes meanwhile on the device thread. That
    takes the memory of both for a moment.

    Args:
        cls: Its class, or one of the `AutoModel` classes.
        folder: Where its config.json and its weights are.
        device: `cpu` or `cuda:N`; for the type of its numbers. The model is left on the CPU.
        more: Further arguments of `from_pretrained`.

    Raises:
        UnsupportedModel: Weights are missing. The library would put noise in their place and only warn.
    """
    import torch

    model, found = cls.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **more
    )
    require_all(model, found["missing_keys"])
    if device != "cpu":
        _convert(model, _own_dtype(folder))
    return model


def require_all(model: Any, missing: Collection[str]) -> None:  # noqa: ANN401  # A torch module.
    """Refuse a checkpoint that lacks parameters; buffers, which old ones do lack, are computed.

    Args:
        model: The module that it was loaded into.
        missing: Names of parameters and buffers that it lacks.

    Raises:
        UnsupportedModel: Names the first few parameters.
    """
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    if lacking := sorted(parameters.intersection(missing)):
        shown = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        raise UnsupportedModel(
            f"its weights are not all there, or are another model's: a {type(model).__name__} has {shown}",
            field="model",
        )


def _own_dtype(folder: Path) -> torch.dtype:
    """The type of the numbers of a checkpoint, as its configuration tells; float32 if it does not."""
    import torch

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else torch.float32


def _convert(model: Any, dtype: torch.dtype) -> None:  # noqa: ANN401  # A model of transformers.
    """Convert a model as if it had been loaded so: all but what its class keeps in float32, and frequencies."""
    kept = [re.compile(rf"(^|\.){re.escape(name)}(\.|$)") for name in model._get_dtype_plan(dtype)]
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        is_kept = _ALWAYS_FLOAT32.search(name) or any(each.search(name) for each in kept)
        if tensor.is_floating_point() and not is_kept:
            tensor.data = tensor.data.to(dtype)
    for config in [model.config, *(getattr(model.config, part) for part in model.config.sub_configs)]:
        if config is not None:
            config.dtype = dtype
