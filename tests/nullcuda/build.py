"""Compiles the null CUDA device and says how to start a process with it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = (
    *("-O2", "-g", "-std=gnu11", "-fPIC", "-shared"),
    *("-Wall", "-Wextra", "-Wno-implicit-fallthrough", "-Wno-overlength-strings"),
)
LIBRARIES = {
    # Its SONAME makes every dlopen("libcuda.so.1") in the process find this library.
    "libnullcuda.so": ("nullcuda.c", "-Wl,-soname,libcuda.so.1", "-Wl,-z,now", "-ldl", "-lpthread"),
    "libnullnvml.so": ("nullnvml.c", "-Wl,-soname,libnvidia-ml.so.1", "-ldl"),
    "libnullcudnn.so": ("nullcudnn.c",),
}
COMPILE_TIMEOUT_S = 120


class NullCudaUnavailableError(Exception):
    """The null device cannot be built here; the message says why."""


def build(cache: Path | None = None) -> Path:
    """Compile what is not compiled yet.

    Args:
        cache: Folder for the libraries, one folder in it for each version of the sources; by default
            that of `default_cache`.

    Returns:
        The folder that holds the libraries.

    Raises:
        NullCudaUnavailableError: A compiler, the headers or the right kind of machine is missing, or compiling failed.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NullCudaUnavailableError(f"the null CUDA device is for Linux on x86-64, not {platform.platform()}")
    compiler = _compiler()
    headers = cuda_headers()
    cache = cache or default_cache()
    folder = cache / _digest(compiler, headers)
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        # Made aside and renamed, so that a folder which is there is complete, however many processes build at once.
        with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as aside:
            made = Path(aside) / "libraries"
            made.mkdir()
            for name, (source, *options) in LIBRARIES.items():
                _compile([compiler, *FLAGS, f"-I{headers}", "-o", str(made / name), str(SOURCES / source), *options])
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    return folder


def default_cache() -> Path:
    """`memprof-nullcuda` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memprof-nullcuda"


def environment(
    libraries: Path,
    *,
    devices: int = 1,
    memory: str | None = None,
    base: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The environment of a process that shall see null devices.

    Args:
        libraries: What `build` returned.
        devices: How many devices there are.
        memory: Memory of each device, with a suffix (`8G`); None leaves it to the environment.
        base: Environment to start from; by default that of this process.
    """
    made = dict(os.environ if base is None else base)
    preload = [str(libraries / name) for name in LIBRARIES]
    if made.get("NULLCUDA_CUDNN") == "0":
        preload.remove(str(libraries / "libnullcudnn.so"))
    made["LD_PRELOAD"] = os.pathsep.join([*preload, *filter(None, [made.get("LD_PRELOAD")])])
    made["NULLCUDA_DEVICES"] = str(devices)
    if memory is not None:
        made["NULLCUDA_MEMORY"] = memory
    return made


def cuda_headers() -> Path:
    """The folder of `cuda.h` in the triton package that comes with CUDA builds of torch.

    Raises:
        NullCudaUnavailableError: triton is not installed, or without headers.
    """
    spec = importlib.util.find_spec("triton")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent / "backends/nvidia/include"
    if folder is None or not (folder / "cuda_runtime_api.h").is_file():
        raise NullCudaUnavailableError(
            f"no CUDA headers: {sys.executable} has no triton with backends/nvidia/include; install the CUDA build of torch"
        )
    return folder


def _compiler() -> str:
    name = os.environ.get("CC") or "gcc"
    found = shutil.which(name)
    if found is None:
        raise NullCudaUnavailableError(f"no C compiler: {name} is not in PATH; install gcc or set CC")
    return found


def _digest(compiler: str, headers: Path) -> str:
    """A name for everything that the libraries are made of."""
    digest = hashlib.sha256(repr((compiler, FLAGS, LIBRARIES)).encode())
    files = [
        *sorted(SOURCES.glob("*.c")),
        headers / "cuda.h",
        headers / "cuda_runtime_api.h",
        headers / "driver_types.h",
    ]
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    if done.returncode:
        raise NullCudaUnavailableError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
