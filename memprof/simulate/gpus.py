"""GPUs by name: how much memory each has, and how much of it a PyTorch process can use.

The marketing size of a GPU is not what a program gets. The driver keeps a part (more where ECC is on), and each
process pays for its CUDA context. Both are looked up here, with the report they were read from.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from memprof._errors import UsageError
from memprof.units import parse_bytes

_MIB = 1 << 20
_CONTEXT_BYTES = 500 * _MIB
"""What a CUDA context and the kernels loaded into it take, where no report tells: `Including non-PyTorch memory`
less what PyTorch reserved is 0.13 to 0.49 GiB in the reports below."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as a program sees it; sizes in bytes."""

    name: str
    total_bytes: int
    """What `cudaMemGetInfo` gives as total; where only `nvidia-smi` was seen, what it says, which is 1 to 2 % more."""
    context_bytes: int = _CONTEXT_BYTES
    """Taken by the CUDA context of one process; an estimate."""
    compute_capability: tuple[int, int] = (8, 0)
    multi_processors: int = 108
    source: str = ""
    """Where `total_bytes` was read; '' for a size given by hand."""

    @property
    def threads_per_multi_processor(self) -> int:
        """Most threads that one multiprocessor runs at once.

        Source:
            "Maximum number of resident threads per SM", CUDA C++ Programming Guide 13.0, compute capabilities.
        """
        by_capability = {(7, 5): 1024, (8, 6): 1536, (8, 7): 1536, (8, 9): 1536, (12, 0): 1536, (12, 1): 1536}
        return by_capability.get(self.compute_capability, 2048)

    @property
    def usable_bytes(self) -> int:
        """What the caching allocator of one process can get at most."""
        return self.total_bytes - self.context_bytes


def _gib(value: float) -> int:
    return round(value * (1 << 30))


def _mib(value: int) -> int:
    return value * _MIB


_ISSUE = "total capacity in the error of github.com/"
_SMI = "nvidia-smi, github.com/"

GPUS: tuple[Gpu, ...] = (
    Gpu("V100-16GB", _gib(15.77), _CONTEXT_BYTES, (7, 0), 80, _ISSUE + "nomic-ai/gpt4all/issues/544"),
    Gpu("V100-32GB", _gib(31.74), _CONTEXT_BYTES, (7, 0), 80, _ISSUE + "liucongg/ChatGLM-Finetuning/issues/73"),
    Gpu("RTX 2080 Ti", _gib(10.76), _CONTEXT_BYTES, (7, 5), 68, _ISSUE + "JDAI-CV/image-captioning/issues/11"),
    Gpu("RTX 8000", _gib(47.46), _CONTEXT_BYTES, (7, 5), 72, _ISSUE + "Victarry/stable-dreambooth/issues/8"),
    Gpu("T4", _gib(14.56), _gib(0.13), (7, 5), 40, _ISSUE + "Zheng-Chong/CatVTON/issues/133 (ECC on)"),
    Gpu("A100-40GB", _gib(39.50), _gib(0.49), (8, 0), 108, _ISSUE + "TianheWu/CoSeR/issues/10"),
    Gpu("A100-80GB", _gib(79.25), _CONTEXT_BYTES, (8, 0), 108, _ISSUE + "levihsu/OOTDiffusion/issues/235"),
    Gpu("A30", _gib(23.53), _CONTEXT_BYTES, (8, 0), 56, _ISSUE + "google/RB-Modulation/issues/5"),
    Gpu("A10", _mib(23028), _CONTEXT_BYTES, (8, 6), 72, _SMI + "modal-labs/modal-client/pull/2797"),
    Gpu("RTX A2000-12GB", _gib(11.53), _CONTEXT_BYTES, (8, 6), 26, _ISSUE + "vllm-project/vllm/issues/12030"),
    Gpu("RTX A4000", _gib(15.61), _gib(0.21), (8, 6), 48, _ISSUE + "DengKaiCQ/VGGT-Long/issues/6"),
    Gpu("RTX 3060", _gib(11.75), _CONTEXT_BYTES, (8, 6), 28, _ISSUE + "Kunhao-Liu/StyleGaussian/issues/12"),
    Gpu("RTX 3070", _gib(7.78), _CONTEXT_BYTES, (8, 6), 46, _ISSUE + "akshitac8/OW-DETR/issues/46"),
    Gpu("RTX 3080", _gib(9.78), _CONTEXT_BYTES, (8, 6), 68, _ISSUE + "zai-org/CogVideo/issues/34"),
    Gpu("RTX 3090", _gib(23.70), _CONTEXT_BYTES, (8, 6), 82, _ISSUE + "Lightning-AI/lit-llama/issues/137"),
    Gpu("RTX 4080", _gib(15.99), _CONTEXT_BYTES, (8, 9), 76, _ISSUE + "aigc-apps/sd-webui-EasyPhoto/issues/281"),
    Gpu("RTX 4090", _gib(23.64), _gib(0.46), (8, 9), 128, _ISSUE + "ali-vilab/VGen/issues/104"),
    Gpu("L4", _mib(23034), _CONTEXT_BYTES, (8, 9), 58, _SMI + "modal-labs/modal-client/pull/2797"),
    Gpu("L40S", _mib(46068), _CONTEXT_BYTES, (8, 9), 142, _SMI + "modal-labs/modal-client/pull/2797"),
    Gpu("RTX 6000 Ada", _gib(44.43), _gib(0.42), (8, 9), 142, _ISSUE + "DINGYANB/MTVCrafter/issues/21 (ECC on)"),
    Gpu("H100", _gib(79.11), _CONTEXT_BYTES, (9, 0), 132, _ISSUE + "vllm-project/vllm/issues/27508"),
    Gpu(
        "RTX 5090", _gib(31.36), _CONTEXT_BYTES, (12, 0), 170, _ISSUE + "TrajectoryCrafter/TrajectoryCrafter/issues/20"
    ),
)
"""What is known, oldest architecture first."""

_ALIASES = {"v100": "V100-16GB", "a100": "A100-40GB", "h100-80gb": "H100", "a10g": "A10"}
_SEVERAL = re.compile(r"\s*(?P<count>\d+)\s*[x*]\s*(?P<gpu>\S.*)", re.IGNORECASE)
_SIZE = re.compile(r"\s*\d+(\.\d+)?\s*[kmgt]i?b?\s*", re.IGNORECASE)


def find_gpu(name: str) -> Gpu:
    """Look a GPU up.

    Args:
        name: Its name, in any case and with or without maker, spaces and dashes (`A100-40GB`, `rtx4090`), or a
            size of memory (`8GiB`), which makes a GPU without a context.

    Returns:
        The GPU.

    Raises:
        UsageError: Nothing is known by that name.
    """
    if _SIZE.fullmatch(name):
        nbytes = parse_bytes(name)
        return Gpu(name.strip(), nbytes, context_bytes=0)
    aliases = {_key(alias): target for alias, target in _ALIASES.items()}
    by_key = {_key(gpu.name): gpu for gpu in GPUS}
    wanted = _key(aliases.get(_key(name), name))
    found = by_key.get(wanted)
    if found is None:
        near = difflib.get_close_matches(wanted, by_key, n=3, cutoff=0.5)
        known = ", ".join(by_key[key].name for key in near) or ", ".join(gpu.name for gpu in GPUS)
        raise UsageError(f"no GPU {name!r} is known; near: {known}. A size will do too, such as 24GiB")
    return found


def find_gpus(name: str) -> tuple[Gpu, int]:
    """Look up several GPUs of one kind.

    Args:
        name: As for `find_gpu`; `2xA100-40GB` are two.

    Returns:
        The GPU, and how many there are.

    Raises:
        UsageError: Nothing is known by that name.
    """
    several = _SEVERAL.fullmatch(name)
    if several is None:
        return find_gpu(name), 1
    return find_gpu(several["gpu"]), int(several["count"])


def _key(name: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|quadro|[^a-z0-9]", "", name.lower())


__all__ = ["GPUS", "Gpu", "find_gpu", "find_gpus"]
