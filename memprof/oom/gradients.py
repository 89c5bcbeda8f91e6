"""The gradients of a model as they were before an attempt, so that a half-done backward can be undone."""

from __future__ import annotations

from collections.abc import Iterable

import torch


class GradientMark:
    """Remembers which gradients there were, without copying them.

    Args:
        parameters: Of the model that is trained.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._identities = [id(parameter.grad) for parameter in self._parameters]
        self._versions = [_version(parameter) for parameter in self._parameters]
        self.empty = all(parameter.grad is None for parameter in self._parameters)
        """There were no gradients yet, as after `zero_grad()`."""

    @property
    def touched(self) -> bool:
        """Whether backward has added to a gradient, or made one, since."""
        return any(
            id(parameter.grad) != identity or _version(parameter) != version
            for parameter, identity, version in zip(self._parameters, self._identities, self._versions, strict=True)
        )

    def drop(self) -> None:
        """Go back to having no gradients."""
        for parameter in self._parameters:
            parameter.grad = None


def _version(parameter: torch.nn.Parameter) -> int:
    """Times a gradient was changed in place, as autograd counts them."""
    return -1 if parameter.grad is None else int(parameter.grad._version)
