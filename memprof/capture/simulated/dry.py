"""A dry run: what is on the simulated GPU has a shape and no values, so that nothing is computed and no room is needed.

Ops run on torch's `meta` device. Where a script asks for a value that is not known, it gets a stated placeholder, or
the run stops: never a figure that depends on a value nobody computed.
"""

from __future__ import annotations

import functools
import mmap
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch

from memprof._errors import DryRunStoppedError
from memprof.capture.frames import UserCode
from memprof.capture.simulated.known_values import MOST_VALUES, KnownValues, on_meta, worth_keeping
from memprof.capture.simulated.tensors import SimulatedTensor

_aten = torch.ops.aten
_META = torch.device("meta")
Run = Callable[[tuple[Any, ...], dict[str, Any]], Any]
_LARGE_BYTES = 1 << 20
_MOST_NOTES = 8
_NEEDS_VALUES = re.compile(r"\bmeta\b", re.IGNORECASE)
_BY_INDICES = tuple(f"aten::{name}" for name in ("index", "index_put", "index_put_", "_index_put_impl_"))
_FILLS = (_aten.normal_.default, _aten.uniform_.default)
_REMEDY = "leave out --dry (dry=True), which computes the values on the CPU"


class DryRun:
    """Computes shapes, keeps the few values that are known, and counts those that were asked for in vain."""

    meta = _META

    def __init__(self) -> None:
        self.values = KnownValues()
        self._code = UserCode()
        self._placeholders: Counter[tuple[str, str]] = Counter()
        """What was asked for, and the line."""
        self._unsaved: Counter[str] = Counter()
        """Lines whose `torch.save` was passed over."""
        self._stopped: list[str] = []

    # ---- ops ---------------------------------------------------------------------------

    def compute(self, func: Any, own: Run | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an op without its arithmetic.

        Args:
            func: An `OpOverload`.
            own: What runs in its place; None runs the op.
            args: Its arguments; simulated tensors as tensors on `meta`, others as they are.
            kwargs: Its keyword arguments.

        Returns:
            Its output, on `meta`.

        Raises:
            DryRunStoppedError: The shape of the output depends on values that are not known.
        """
        if func._schema.name in _BY_INDICES:
            args = self._with_rows(func, args)
        real = self._known(args)
        given = kwargs
        if "generator" in kwargs:
            given = {key: value for key, value in kwargs.items() if key != "generator"}
        try:
            output = func(*args, **given) if own is None else own(args, given)
        except (NotImplementedError, RuntimeError) as error:
            if not isinstance(error, NotImplementedError) and not _NEEDS_VALUES.search(str(error)):
                raise
            if real is None:
                self._stop_at(func, error)
            return self._shaped(_on_host(func, own, real, kwargs))
        made = list(_tensors(output))
        if real is not None and self._small(made, args):
            for one, other in zip(made, _tensors(_on_host(func, own, real, kwargs)), strict=True):
                if self.values.of(one) is None and one.is_meta:
                    self.values.keep(one, other)
        elif func._schema.is_mutable:
            self._forget_written(func, args, kwargs)
        return output

    def _small(self, made: list[torch.Tensor], args: tuple[Any, ...]) -> bool:
        """Whether values of an op's outputs are worth computing where those of its inputs are known."""
        if any(tensor.is_meta for tensor in _tensors(args)):
            return sum(tensor.numel() for tensor in made) <= MOST_VALUES
        return all(worth_keeping(tensor) for tensor in made)

    def _known(self, item: Any) -> Any:
        """An argument with the values it has; None where they are not known."""
        if isinstance(item, torch.Tensor):
            return self.values.of(item) if item.is_meta else item
        if isinstance(item, (list, tuple)) and type(item) in (list, tuple):
            found = []
            for each in item:
                known = self._known(each)
                if known is None and each is not None:
                    return None
                found.append(known)
            return type(item)(found)
        return item

    def _shaped(self, output: Any) -> Any:
        """An output that was computed, as tensors on `meta` whose values are known."""
        if isinstance(output, torch.Tensor):
            made = torch.empty_strided(output.size(), output.stride(), dtype=output.dtype, device=_META)
            self.values.keep(made, output)
            return made
        if isinstance(output, (list, tuple)):
            return type(output)(self._shaped(item) for item in output)
        return output

    def _forget_written(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for at, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = args[at] if at < len(args) else kwargs.get(argument.name)
                for tensor in _tensors(given):
                    if tensor.is_meta:
                        self.values.forget(tensor)

    def _with_rows(self, func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments of an indexing op with the numbers of the rows where a mask is known."""
        rows: list[Any] = []
        for index in args[1]:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                rows.append(on_meta(index) if index is not None and index.dim() else index)
                continue
            mask = self.values.of(index) if index.is_meta else index
            if mask is None:
                if func._schema.name != "aten::index" and args[2].numel() == 1:
                    return args[0], [None], *args[2:]  # one value for all: a fill, which takes no memory
                self.stop(f"{_name(func)} with a mask", "how many elements the mask chooses depends on its values")
            rows += [on_meta(numbers) for numbers in mask.nonzero(as_tuple=True)]
        return args[0], rows, *args[2:]

    def _stop_at(self, func: Any, error: Exception) -> NoReturn:
        if _has_dynamic_shape(func):
            self.stop(_name(func), "the shape of what it gives depends on values")
        reason = str(error).split("\n", 1)[0]
        self.stop(_name(func), f"torch {torch.__version__} cannot tell its output without computing it ({reason})")

    # ---- values that the script reads --------------------------------------------------

    def scalar(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`.item()`: the value where it is known, else 0; a truth value that is not known stops the run."""
        if not isinstance(args[0], SimulatedTensor):
            return NotImplemented
        values = args[0].host
        known = self.values.of(values)
        if known is not None:
            return known.item()
        if values.dtype is torch.bool:
            self.stop("the truth of a tensor", "which way the script goes depends on values")
        self._placeholder(".item() (float(), int(), format)")
        return 0j if values.dtype.is_complex else 0.0 if values.dtype.is_floating_point else 0

    def equal(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """`torch.equal`."""
        known = [self.values.of(item.host) if isinstance(item, SimulatedTensor) else item for item in args]
        if any(item is None for item in known):
            self.stop("torch.equal", "which way the script goes depends on values")
        return bool(func(*known))

    def truth(self, tensor: SimulatedTensor) -> None:
        """`bool(tensor)` and `if tensor:` go on only where the value is known."""
        if tensor.host.is_meta and tensor.numel() == 1 and self.values.of(tensor.host) is None:
            self.stop("the truth of a tensor", "which way the script goes depends on values")

    def position(self, tensor: SimulatedTensor) -> None:
        """A tensor as an index of a list, or as a size, goes on only where the value is known."""
        if tensor.host.is_meta and tensor.numel() == 1 and self.values.of(tensor.host) is None:
            self.stop("a tensor as an index or a size", "what the script does with it depends on its value")

    def to_host(self, values: torch.Tensor, like: dict[str, Any]) -> torch.Tensor:
        """A copy in host memory: of the values where they are known, else zeros, whose pages are not touched.

        Args:
            values: On `meta`.
            like: Keyword arguments of `_to_copy` but for the device.
        """
        known = self.values.of(values)
        if known is not None:
            return _aten._to_copy.default(known, **like)  # type: ignore[no-any-return]
        self._placeholder(".cpu() (.tolist(), .numpy())")
        planned = _aten._to_copy.default(values, **like)
        return untouched_zeros(planned)

    def onto(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """`copy_` from the simulated GPU into a tensor in host memory."""
        known = self.values.of(source)
        if known is not None:
            target.copy_(known)
        else:
            self._placeholder("copy_() to host memory")
            target.zero_()

    def from_host(self, values: torch.Tensor, like: dict[str, Any]) -> torch.Tensor:
        """A copy on the simulated GPU of a tensor in host memory."""
        made: torch.Tensor = _aten._to_copy.default(values, **{**like, "device": _META})
        if not values.is_meta and worth_keeping(made):
            self.values.keep(made, _aten._to_copy.default(values, **like))
        return made

    # ---- what is told ------------------------------------------------------------------

    def stop(self, what: str, why: str) -> NoReturn:
        """End the run.

        Raises:
            DryRunStoppedError: Always.
        """
        sentence = f"{what} at {self._line()}: {why}, and a dry run computes none"
        self._stopped.append(sentence)
        raise DryRunStoppedError(f"the dry run cannot go on at {sentence}; {_REMEDY}")

    def _placeholder(self, what: str) -> None:
        self._placeholders[what, self._line()] += 1

    def notes(self) -> Iterator[str]:
        """What the report must say of the run, in sentences."""
        for sentence in self._stopped:
            yield f"the dry run stopped at {sentence}"
        for (what, line), count in self._placeholders.most_common(_MOST_NOTES):
            yield f"dry run: {what} at {line} gave 0 in place of a value that was not computed, {_times(count)}"
        more = len(self._placeholders) - _MOST_NOTES
        if more > 0:
            yield f"dry run: {more} more lines read values that were not computed and got 0"
        for line, count in self._unsaved.items():
            yield f"dry run: torch.save at {line} wrote nothing, since there are no values to save, {_times(count)}"

    def _line(self) -> str:
        frame = self._code.innermost(sys._getframe(1))
        if frame is None:
            return "an unknown line"
        place = self._code.location(frame)
        return f"{place.file}:{place.line}"

    # ---- the model in host memory ------------------------------------------------------

    def skips(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether an op in host memory only fills a large tensor with random numbers, as a model's first values are."""
        return func in _FILLS and args[0].dtype.is_floating_point and args[0].nbytes >= _LARGE_BYTES

    def initialisers(self) -> Iterator[tuple[Any, str, Any]]:
        """Owner, name and stand-in of each function of `torch.nn.init`; stand-ins leave large tensors as they are."""
        for name, function in list(vars(torch.nn.init).items()):
            if name.endswith("_") and not name.startswith("_") and callable(function):
                yield torch.nn.init, name, _quick(function)

    def saving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A `torch.save` that leaves files alone where there are no values to write."""

        @functools.wraps(original)
        def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
            if not _holds_simulated(obj):
                return original(obj, f, *args, **kwargs)
            self._unsaved[self._line()] += 1
            return None

        return save


def untouched_zeros(planned: torch.Tensor) -> torch.Tensor:
    """Zeros laid out as a tensor on `meta` is; a large one takes no room until it is written to."""
    nbytes = planned.untyped_storage().nbytes()
    if nbytes < _LARGE_BYTES:
        raw = torch.zeros(nbytes, dtype=torch.uint8)
    else:
        raw = torch.frombuffer(mmap.mmap(-1, nbytes), dtype=torch.uint8)
    empty = torch.empty(0, dtype=planned.dtype)
    return empty.set_(raw.untyped_storage(), planned.storage_offset(), planned.size(), planned.stride())


def _quick(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def initialise(tensor: Any = None, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("tensor") if tensor is None else tensor
        if isinstance(given, torch.Tensor) and given.device.type == "cpu" and given.nbytes >= _LARGE_BYTES:
            return given
        return function(*(() if tensor is None else (tensor,)), *args, **kwargs)

    return initialise


def _on_host(func: Any, own: Run | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    return func(*args, **kwargs) if own is None else own(args, kwargs)


def _tensors(item: Any) -> Iterator[torch.Tensor]:
    if isinstance(item, torch.Tensor):
        yield item
    elif isinstance(item, (list, tuple)):
        for each in item:
            yield from _tensors(each)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _name(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")


def _has_dynamic_shape(func: Any) -> bool:
    return torch.Tag.dynamic_output_shape in func.tags


def _holds_simulated(item: Any) -> bool:
    """Whether something that is to be saved has tensors on the simulated GPU."""
    if isinstance(item, torch.nn.Module):
        return any(isinstance(tensor, SimulatedTensor) for tensor in item.state_dict().values())
    if isinstance(item, dict):
        return any(map(_holds_simulated, item.values()))
    if isinstance(item, (list, tuple, set)):
        return any(map(_holds_simulated, item))
    return isinstance(item, SimulatedTensor)
