"""`retry`: a training step, or a loop over batches, that makes do with the memory there is."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from memprof._errors import UsageError

if TYPE_CHECKING:
    import torch

    from memprof.oom.parts import Part, PartLimit

    Trained = torch.nn.Module | torch.optim.Optimizer | Iterable[torch.nn.Parameter]

_B = TypeVar("_B")

_REDUCTIONS = ("mean", "sum")


class RetriedStep:
    """A function that computes a loss, run forward and backward in parts that fit; see `retry`."""

    def __init__(
        self,
        function: Callable[..., torch.Tensor],
        *,
        model: Trained | str,
        reduction: str,
        backward: Callable[[torch.Tensor], object] | None,
        limit: PartLimit,
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._model = model
        self._reduction = reduction
        self._backward = backward
        self._limit = limit
        self._where = f"{getattr(function, '__qualname__', repr(function))}()"

    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., torch.Tensor]:
        return self if instance is None else functools.partial(self._run, (instance,))

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the loss of a batch and its gradients.

        Args:
            args: The batch, and whatever else the function takes.
            kwargs: The same by name.

        Returns:
            The loss of the whole batch, without a graph. The gradients are in `.grad`.

        Raises:
            torch.OutOfMemoryError: Not even the smallest part fits. It is the last attempt's own error.
            UsageError: The function returned no loss, or the batch cannot be cut.
        """
        return self._run((), *args, **kwargs)

    @property
    def examples_at_a_time(self) -> int | None:
        """Most examples in a part; None as long as whole batches fit."""
        return self._limit.examples

    def _run(self, bound: tuple[object, ...], *args: Any, **kwargs: Any) -> torch.Tensor:
        from memprof.oom.parts import PartedBatch

        losses: list[torch.Tensor] = []
        parameters = _parameters(self._model, bound)
        for part in PartedBatch((args, kwargs), self._limit, parameters, where=self._where):
            if part.start == 0:
                losses.clear()  # the first part, or the batch made again
            with part as (some, named):
                losses.append(self._loss_and_gradients(part, bound, some, named))
        return functools.reduce(lambda total, loss: total + loss, losses)

    def _loss_and_gradients(self, part: Part[Any], bound: tuple[object, ...], args: Any, kwargs: Any) -> torch.Tensor:
        """Forward and backward of one part; its graph goes when this returns."""
        import torch

        loss: object = self._function(*bound, *args, **kwargs)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise UsageError(
                f"memprof.oom.retry needs the loss from {self._where}, one number as a tensor, and got "
                f"{_described(loss)}; return the loss and leave backward() to it"
            )
        if self._reduction == "mean" and part.weight != 1:
            loss = loss * part.weight
        if self._backward is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._backward(loss)
        return loss.detach()


@overload
def retry(
    step: Callable[..., torch.Tensor],
    /,
    *,
    model: Trained | str,
    reduction: str = "mean",
    backward: Callable[[torch.Tensor], object] | None = None,
    smallest: int = 1,
) -> RetriedStep: ...
@overload
def retry(batches: Iterable[_B], /, *, model: Trained, smallest: int = 1) -> Iterator[Part[_B]]: ...
@overload
def retry(
    *,
    model: Trained | str,
    reduction: str = "mean",
    backward: Callable[[torch.Tensor], object] | None = None,
    smallest: int = 1,
) -> Callable[[Callable[..., torch.Tensor]], RetriedStep]: ...
def retry(
    subject: Any = None,
    /,
    *,
    model: Any,
    reduction: str = "mean",
    backward: Callable[[torch.Tensor], object] | None = None,
    smallest: int = 1,
) -> Any:
    """Train on each batch in as many parts as memory needs, with the gradient of the whole batch.

    On a function that computes the loss of a batch (it does the backward, too)::

        @memprof.oom.retry(model=model)
        def loss_of(images, labels):
            return F.cross_entropy(model(images), labels)

        for images, labels in loader:
            optimizer.zero_grad()
            loss = loss_of(images, labels)
            optimizer.step()

    On an iterator, where the loop does forward and backward itself::

        for part in memprof.oom.retry(loader, model=model):
            with part as (images, labels):
                loss = F.cross_entropy(model(images), labels) * part.weight
                loss.backward()
            if part.last:
                optimizer.step()
                optimizer.zero_grad()

    Where a part runs out of memory, what it holds is let go, its half-made gradients are dropped, and the examples
    come again, half as many at a time, down to `smallest`. The size that fitted stays for the batches that follow.
    The sum of the parts' gradients is that of the batch, up to rounding, as with gradient accumulation; what depends
    on the other examples of a batch is not: batch normalisation sees a part, a mean over something else than
    examples (tokens, weighted classes) is weighted by examples, and random numbers are drawn anew.

    In the loop's form the variables that the body bound to tensors are set to None after a failure, or they would keep
    the graph that was too large. Training over several processes is left alone: they would wait for each other.

    Args:
        subject: A function that returns a loss, or an iterable of batches. A batch is made of tensors with the
            examples along their first dimension; see `memprof.oom.split`.
        model: Whose gradients these are: a module, an optimizer or parameters; for a method the name of the attribute
            that is one (`"model"`).
        reduction: Whether the function's loss is the `mean` over examples or their `sum`.
        backward: Called with the loss in place of `loss.backward()`, for example
            `lambda loss: scaler.scale(loss).backward()`.
        smallest: Least examples at a time.

    Returns:
        A `RetriedStep`, a decorator that makes one, or an iterator of `Part`.

    Raises:
        UsageError: An argument has a value that is not offered.
    """
    from memprof.oom.parts import PartedBatch, PartLimit

    if reduction not in _REDUCTIONS:
        raise UsageError(f"reduction {reduction!r} is not one of {', '.join(_REDUCTIONS)}")
    if smallest < 1:
        raise UsageError(f"smallest is {smallest}; it must be at least 1")
    limit = PartLimit(smallest)

    def decorate(function: Callable[..., torch.Tensor]) -> RetriedStep:
        return RetriedStep(function, model=model, reduction=reduction, backward=backward, limit=limit)

    if subject is None:
        return decorate
    if callable(subject):
        return decorate(subject)
    if not isinstance(subject, Iterable):
        raise UsageError(f"memprof.oom.retry takes a function or batches to go over, not {subject!r}")
    caller = sys._getframe(1)
    where = f"the loop at {os.path.basename(caller.f_code.co_filename)}:{caller.f_lineno}"
    parameters = _parameters(model, ())

    def go_through() -> Iterator[Part[Any]]:
        for batch in subject:
            yield from PartedBatch(batch, limit, parameters, where=where)
            del batch  # not alive while the next one is made

    return go_through()


def _parameters(model: Any, bound: Sequence[object]) -> list[torch.nn.Parameter]:
    """The parameters of a module or an optimizer, or those given.

    Raises:
        UsageError: It is none of these, or a name where there is no instance to ask.
    """
    import torch

    if isinstance(model, str):
        if not bound:
            raise UsageError(f"model={model!r} names an attribute, which only a method's instance has")
        model = getattr(bound[0], model)
    if isinstance(model, torch.nn.Module):
        return list(model.parameters())
    if isinstance(model, torch.optim.Optimizer):
        return [parameter for group in model.param_groups for parameter in group["params"]]
    if isinstance(model, Iterable):
        parameters = list(model)
        if all(isinstance(parameter, torch.Tensor) for parameter in parameters):
            return parameters
    raise UsageError(f"model is {_described(model)}; give a module, an optimizer or parameters")


def _described(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"
