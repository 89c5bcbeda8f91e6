"""Which parameters got gradients, and whether anybody steps them: one profile for each watched backward.

Nothing of the user's is kept alive: parameters are met anew each time, and what is remembered of them are numbers
under their `id`. Weak references would be in the way of `torch.utils.swap_tensors`. A parameter that takes the
`id` of one that is gone counts as changed, which no rule takes for waste.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.nn.parameter import is_lazy

from memprof.capture.live import gradient_of, storage_key, version_of
from memprof.capture.nested import bytes_of
from memprof.capture.storages import StorageTracker
from memprof.record.events import ModuleRef, ParameterProfile, ParameterShare, Role
from memprof.record.schema import NONE

_MOST_NUMBERS = 4096
"""From so many root modules and optimizers on, those that are gone are looked for and left out."""

_LEARNT_BETWEEN = 64
"""So many root modules are learnt before what is known of those that are gone is forgotten."""

_Key = tuple[int, ModuleRef, int | None, bool, bool, bool, bool]


class ParameterBooks:
    """Numbers root modules and optimizers, and says what each backward did to their parameters.

    Args:
        tracker: The books of storages: roles and hand-written updates.
        write: Takes each new profile.
        optimizers: The optimizers there are.
    """

    def __init__(
        self,
        tracker: StorageTracker,
        write: Callable[[ParameterProfile], None],
        optimizers: Iterable[torch.optim.Optimizer],
    ) -> None:
        self._tracker = tracker
        self._write = write
        self._optimizers = optimizers
        self._numbers: dict[int, tuple[weakref.ref[object], int]] = {}
        """`id` of a root module or optimizer -> it and its number, which every iteration asks for several times."""
        self._count = 0
        self._roots: list[weakref.ref[torch.nn.Module]] = []
        self._learnt = 0
        """Root modules so far."""
        self._first_version: dict[int, int] = {}
        """`id` of a parameter -> its version when it was first met."""
        self._before: dict[int, tuple[int, int]] = {}
        """`id` of a parameter -> its gradient and that one's version when the backward began."""
        self._pending: dict[int, int] = {}
        """Optimizer -> `id` of a parameter of its that got a gradient since its last step or `zero_grad`."""
        self._known: dict[tuple[ParameterShare, ...], int] = {}
        self._profiles = 0
        self._module_refs: dict[tuple[int, str], tuple[ModuleRef, int]] = {}
        self._without_optimizer = False
        """A parameter that no optimizer has got a gradient."""
        self.entered: set[int] = set()
        """Module ids (of the recording) that were called while storages were watched."""

    # ---- numbers -----------------------------------------------------------------------

    def number(self, item: torch.nn.Module | torch.optim.Optimizer) -> int:
        """Number of a root module or an optimizer, in the order they are met."""
        known = self._numbers.get(id(item))
        if known is not None and known[0]() is item:
            return known[1]
        if len(self._numbers) >= _MOST_NUMBERS:
            self._numbers = {key: entry for key, entry in self._numbers.items() if entry[0]() is not None}
        number, self._count = self._count, self._count + 1
        self._numbers[id(item)] = (weakref.ref(item), number)
        return number

    def learn(self, root: torch.nn.Module) -> bool:
        """Take a root module's parameters into the books.

        Returns:
            Whether it is time to forget what is known of modules that are gone.
        """
        self._roots = [reference for reference in self._roots if reference() is not None]
        if any(reference() is root for reference in self._roots):
            return False
        self._roots.append(weakref.ref(root))
        self._learnt += 1
        forgets = self._learnt % _LEARNT_BETWEEN == 0
        if forgets:
            self._forget_gone()
        for parameter in root.parameters():
            if not is_lazy(parameter):
                self._first_version.setdefault(id(parameter), version_of(parameter))
        return forgets

    def _forget_gone(self) -> None:
        """Forget what is known of root modules, optimizers and parameters that are gone."""
        alive = [root for reference in self._roots if (root := reference()) is not None]
        self._numbers = {key: entry for key, entry in self._numbers.items() if entry[0]() is not None}
        numbers = {number for _, number in self._numbers.values()}
        parameters = {id(parameter) for root in alive for parameter in root.parameters()}
        self._module_refs = {key: known for key, known in self._module_refs.items() if key[0] in numbers}
        self._known = {
            shares: profile for shares, profile in self._known.items() if all(share.root in numbers for share in shares)
        }
        self._first_version = {key: version for key, version in self._first_version.items() if key in parameters}
        self._pending = {key: parameter for key, parameter in self._pending.items() if key in numbers}

    def _owners(self) -> dict[int, list[int]]:
        """`id` of a parameter -> the optimizers that hold it; several may, each for a loss of its own."""
        owners: dict[int, list[int]] = {}
        for optimizer in list(self._optimizers):
            number = self.number(optimizer)
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    held = owners.setdefault(id(parameter), [])
                    if number not in held:
                        held.append(number)
        return owners

    def optimizers_of(self, module: torch.nn.Module) -> set[int]:
        """Numbers of the optimizers that hold parameters of a module."""
        owners = self._owners()
        return {optimizer for parameter in module.parameters() for optimizer in owners.get(id(parameter), ())}

    # ---- passes ------------------------------------------------------------------------

    def backward_begins(self) -> list[int]:
        """Remember the gradients there are.

        Returns:
            Optimizers whose gradients went since the last backward without a step and without `zero_grad`.
        """
        self._before = {
            id(parameter): (gradient._cdata, version_of(gradient))
            for _, _, _, _, parameter in self._named()
            if (gradient := gradient_of(parameter)) is not None
        }
        gone = [optimizer for optimizer, parameter in self._pending.items() if parameter not in self._before]
        for optimizer in gone:
            del self._pending[optimizer]
        return gone

    def settled(self, optimizer: int) -> None:
        """An optimizer stepped, or its gradients were freed or zeroed."""
        self._pending.pop(optimizer, None)

    def backward_ended(self, *, roles: bool) -> int:
        """Say which parameters got a gradient.

        Args:
            roles: Also give gradients their role.

        Returns:
            Number of the profile.
        """
        owners = self._owners()
        sums: dict[_Key, list[int]] = {}
        live = self._tracker.live
        self._without_optimizer = False
        for root, module, module_id, name, parameter in self._named():
            gradient = gradient_of(parameter)
            if roles:
                # Again: lazy layers have made theirs by now, and assigning `.data` changes the storage.
                self._tracker.found(parameter, Role.PARAMETER, name)
                if gradient is not None:
                    self._tracker.found(gradient, Role.GRADIENT)
            held_by = owners.get(id(parameter), ())
            written = self._got_gradient(parameter)
            if gradient is not None and not held_by:
                self._without_optimizer = True
            for optimizer in held_by if written else ():
                self._pending.setdefault(optimizer, id(parameter))
            booked = live.get(storage_key(parameter))
            by_hand = booked is not None and bool(booked.role & Role.WRITTEN)
            version = version_of(parameter)
            changed = by_hand or version != self._first_version.setdefault(id(parameter), version)
            entered = module_id in self.entered
            nbytes = bytes_of(parameter)
            for owner in held_by or (None,):
                key = (root, module, owner, parameter.requires_grad, entered, changed, by_hand)
                row = sums.setdefault(key, [0, 0, 0])
                row[0] += 1
                row[1] += nbytes
                row[2] += nbytes if written else 0
        shares = tuple(
            ParameterShare(root, module, optimizer, requires_grad, row[0], row[1], row[2], entered, changed, by_hand)
            for (root, module, optimizer, requires_grad, entered, changed, by_hand), row in sums.items()
        )
        number = self._known.get(shares, NONE)
        if number == NONE:
            number = self._known[shares] = self._profiles
            self._profiles += 1
            self._write(ParameterProfile(number, shares))
        return number

    def find_gradients(self) -> None:
        """Give gradients their role and no more: from the lists of optimizers, for modules would have to be walked."""
        for optimizer in list(self._optimizers):
            for group in optimizer.param_groups:
                self._find_gradients(group["params"])
        if self._without_optimizer:
            self._find_gradients(parameter for *_, parameter in self._named())

    def _find_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        for parameter in parameters:
            gradient = gradient_of(parameter)
            if gradient is not None:
                self._tracker.found(gradient, Role.GRADIENT)

    def _got_gradient(self, parameter: torch.Tensor) -> bool:
        gradient = gradient_of(parameter)
        if gradient is None:
            return False
        return self._before.get(id(parameter)) != (gradient._cdata, version_of(gradient))

    def _named(self) -> Iterator[tuple[int, ModuleRef, int, str, torch.nn.Parameter]]:
        """Every parameter once, with its root's number, the module that has it, that one's id and its name."""
        seen: set[int] = set()
        for reference in self._roots:
            root = reference()
            if root is None:
                continue
            number = self.number(root)
            for path, module in root.named_modules():
                own = [
                    (name, item)
                    for name, item in module._parameters.items()
                    if item is not None and id(item) not in seen and not is_lazy(item)
                ]
                if not own:
                    continue
                known = self._module_refs.get((number, path))
                if known is None:
                    ref = ModuleRef(path, type(module).__name__)
                    known = self._module_refs[number, path] = (ref, self._tracker.module(ref))
                for name, parameter in own:
                    seen.add(id(parameter))
                    yield number, *known, f"{path}.{name}" if path else name, parameter
