"""GPUs by name."""

from __future__ import annotations

import pytest

from memprof._errors import UsageError
from memprof.simulate.gpus import GPUS, find_gpu, find_gpus


@pytest.mark.parametrize("name", ["RTX 4090", "rtx4090", "NVIDIA GeForce RTX 4090", "RTX-4090"])
def test_a_name_is_found_however_it_is_written(name: str) -> None:
    assert find_gpu(name).name == "RTX 4090"


@pytest.mark.parametrize(("name", "nbytes"), [("8GiB", 8 << 30), ("24 GB", 24 << 30), ("512m", 512 << 20)])
def test_a_size_is_a_gpu_without_a_context(name: str, nbytes: int) -> None:
    gpu = find_gpu(name)
    assert (gpu.total_bytes, gpu.context_bytes, gpu.usable_bytes) == (nbytes, 0, nbytes)


@pytest.mark.parametrize("name", ["2xRTX 4090", "2 x rtx4090", "2*NVIDIA GeForce RTX 4090"])
def test_several_are_a_number_and_a_name(name: str) -> None:
    assert find_gpus(name) == (find_gpu("RTX 4090"), 2)
    assert find_gpus("RTX 4090") == (find_gpu("RTX 4090"), 1)
    assert find_gpus("4x8GiB") == (find_gpu("8GiB"), 4)


def test_what_is_not_known_names_what_is_near() -> None:
    with pytest.raises(UsageError, match=r"no GPU 'RTX 4091' is known; near: RTX 4090"):
        find_gpu("RTX 4091")
    with pytest.raises(UsageError, match="A size will do too"):
        find_gpu("abacus")


def test_every_gpu_has_a_source_and_room_for_more_than_its_context() -> None:
    names = [gpu.name for gpu in GPUS]
    assert len(set(names)) == len(names)
    for gpu in GPUS:
        assert gpu.source
        assert 0 < gpu.context_bytes < gpu.usable_bytes < gpu.total_bytes
        assert find_gpu(gpu.name) is gpu
