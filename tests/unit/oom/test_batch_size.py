"""A function that finds the batch size it can run with."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import weakref

import pytest
import torch

import memprof
from memprof import UsageError, oom


class Big:
    """Stands for what an attempt holds."""


@pytest.mark.parametrize(("fits", "sizes"), [(64, [64]), (20, [64, 32, 16]), (1, [64, 32, 16, 8, 4, 2, 1])])
def test_halves_until_it_runs(fits: int, sizes: list[int], caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    @oom.find_batch_size(start=64)
    def train(batch_size: int, epochs: int, *, lr: float) -> tuple[int, int, float]:
        """Train."""
        tried.append(batch_size)
        if batch_size > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch_size, epochs, lr

    with caplog.at_level(logging.WARNING, logger="memprof.oom"):
        assert train(3, lr=0.1) == (sizes[-1], 3, 0.1)

    assert tried == sizes
    assert train.batch_size == sizes[-1]
    assert train.tried == tuple(sizes[:-1])
    assert train.__doc__ == "Train."
    assert len(caplog.records) == len(sizes) - 1
    assert train(3, lr=0.1)[0] == sizes[-1]  # what ran stays
    assert tried == [*sizes, sizes[-1]]


def test_the_last_error_comes_through_where_nothing_fits() -> None:
    @oom.find_batch_size(start=8, smallest=3)
    def train(batch_size: int) -> None:
        raise torch.OutOfMemoryError(f"{batch_size} are too many")

    with pytest.raises(torch.OutOfMemoryError, match="3 are too many") as caught:
        train()
    if hasattr(caught.value, "__notes__"):
        assert "every batch size tried: 8, 4, 3" in caught.value.__notes__[0]


def test_other_errors_come_through_at_once() -> None:
    @oom.find_batch_size(start=8)
    def train(batch_size: int) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        train()
    assert train.batch_size == 8


def test_the_frames_of_a_failed_attempt_are_cleared() -> None:
    made: list[weakref.ref[Big]] = []

    def inner(batch_size: int) -> None:
        held = Big()
        made.append(weakref.ref(held))
        try:
            raise ValueError("first")
        except ValueError as error:
            raise RuntimeError("CUDA error: out of memory") from error

    @oom.find_batch_size(start=2)
    def train(batch_size: int) -> bool:
        if batch_size == 2:
            inner(batch_size)
        return made[0]() is None

    gc.disable()
    try:
        assert train()
    finally:
        gc.enable()


@pytest.mark.parametrize("arguments", [{"start": 0}, {"start": 4, "smallest": 5}, {"start": 4, "smallest": 0}])
def test_sizes_that_make_no_sense(arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="1 <= smallest <= start"):
        oom.find_batch_size(**arguments)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (MemoryError(), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_are_out_of_memory(error: BaseException, verdict: bool) -> None:
    assert oom.is_out_of_memory(error) is verdict


def test_torch_really_says_so_on_the_cpu() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert oom.is_out_of_memory(caught.value)


def test_importing_it_does_not_import_torch() -> None:
    program = "import sys, memprof; memprof.oom.retry; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_it_is_part_of_the_package() -> None:
    assert memprof.oom is oom
