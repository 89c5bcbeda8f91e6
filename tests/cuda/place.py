"""Where CUDA tests run: on the GPUs of this machine, or on the null device of `tests/nullcuda`."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path

from tests.nullcuda.build import NullCudaUnavailableError, build, environment
from tests.zygote import Zygote

DEFAULT_MEMORY = "8G"
"""Memory of a null device where the test does not care."""


def why_missing() -> str | None:
    """Why CUDA tests cannot run here, found out without importing torch; None where they can."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "torch is not installed"
    version = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    if re.search(r"^cuda\b.*=\s*'", version, re.MULTILINE) is None:
        return "the torch that is installed is not a CUDA build (make test-cuda installs one)"
    try:
        build()
    except NullCudaUnavailableError as error:
        return str(error)
    return None


def gpu_count() -> int:
    """GPUs that the NVIDIA driver has, found out without initialising CUDA."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


class Place:
    """One kind of device, and the zygotes that see it.

    Args:
        libraries: Those of the null device, or None for the machine's GPUs.
    """

    def __init__(self, libraries: Path | None) -> None:
        self._libraries = libraries
        self._zygotes: dict[tuple[tuple[str, str], ...], Zygote] = {}

    def settings(self, devices: int, memory: str | None) -> dict[str, str]:
        """Environment variables that make the devices be as asked for."""
        if self._libraries is None:
            return {}
        return {"NULLCUDA_DEVICES": str(devices), "NULLCUDA_MEMORY": memory or DEFAULT_MEMORY}

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """The environment of a process that sees the devices."""
        # The null device computes nothing, so threads would only be in the way of what else the machine does.
        base = {"OMP_NUM_THREADS": "1", **os.environ}
        if self._libraries is not None:
            base = environment(self._libraries, base=base)
        return {**base, **extra}

    def zygote(self, at_load: Mapping[str, str]) -> Zygote:
        """The zygote whose libraries were loaded with these variables set."""
        key = tuple(sorted(at_load.items()))
        zygote = self._zygotes.get(key)
        if zygote is None or not zygote.alive:
            zygote = self._zygotes[key] = Zygote(self.environment(at_load))
        return zygote

    def close(self) -> None:
        """End the zygotes."""
        for zygote in self._zygotes.values():
            zygote.close()


class Places:
    """Chooses between the GPUs and the null device."""

    def __init__(self) -> None:
        self._gpus = gpu_count()
        self._gpu = Place(None)
        self._null = Place(build())

    def choose(self, devices: int, memory: str | None) -> Place:
        """The GPUs where they do; a device of a given size, and more devices than there are, only the null device has."""
        return self._gpu if memory is None and devices <= self._gpus else self._null

    def close(self) -> None:
        """End the zygotes."""
        self._gpu.close()
        self._null.close()
