"""Runs functions and programs where CUDA is: on a GPU if there is one, else on the null device."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.nullcuda.build import build, environment

ROOT = Path(__file__).parents[2]


class CudaProcess:
    """A zygote and what is needed to run whole programs beside it."""

    def __init__(self, cache: Path, *, gpu: bool) -> None:
        self.gpu = gpu
        self._folder = None if gpu else build(cache)
        self._zygote: subprocess.Popen[str] | None = None

    def environment(self, **settings: object) -> dict[str, str] | None:
        """Environment for a program; None is that of this process."""
        return None if self._folder is None else environment(self._folder, **settings)

    def call(
        self,
        function: Callable[..., Any],
        *,
        cwd: Path,
        devices: int = 1,
        memory: str = "40326M",
        env: dict[str, str] | None = None,
        timeout_s: float = 120,
        **kwargs: Any,
    ) -> Any:
        """Call a function of a test module in a fresh process whose CUDA is not initialised yet.

        Args:
            function: Takes and returns JSON values.
            cwd: Folder to run in.
            devices: Devices of the null device.
            memory: Memory of each.
            env: More environment variables; those torch reads when CUDA is initialised take effect.
            timeout_s: Seconds after which the process is killed.
            kwargs: Arguments of the function.

        Returns:
            What the function returned.
        """
        output = cwd / "output.txt"
        request = {
            "function": f"{function.__module__}:{function.__name__}",
            "kwargs": kwargs,
            "env": {"NULLCUDA_DEVICES": str(devices), "NULLCUDA_MEMORY": memory, **(env or {})},
            "cwd": str(cwd),
            "output": str(output),
            "timeout_s": timeout_s,
        }
        zygote = self._running()
        assert zygote.stdin is not None
        zygote.stdin.write(json.dumps(request) + "\n")
        zygote.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            printed = output.read_text(errors="replace")[-4000:] if output.exists() else ""
            raise AssertionError(f"{answer['error']}\n--- it printed ---\n{printed}")
        return answer["result"]

    def python(
        self, *args: str, cwd: Path, timeout_s: float = 180, **settings: object
    ) -> subprocess.CompletedProcess[str]:
        """Run `python ARGS` with CUDA."""
        return subprocess.run(
            [sys.executable, *args],
            cwd=cwd,
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def close(self) -> None:
        """End the zygote."""
        if self._zygote is not None:
            assert self._zygote.stdin is not None
            self._zygote.stdin.close()
            self._zygote.wait(20)
            assert self._zygote.stdout is not None
            self._zygote.stdout.close()

    def _running(self) -> subprocess.Popen[str]:
        if self._zygote is None:
            self._zygote = subprocess.Popen(
                [sys.executable, "-m", "tests.cuda.zygote"],
                cwd=ROOT,
                env=self.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._answer() == {"ready": True}
        return self._zygote

    def _answer(self) -> dict[str, Any]:
        assert self._zygote is not None
        assert self._zygote.stdout is not None
        line = self._zygote.stdout.readline()
        if not line:
            raise AssertionError(f"the zygote ended with status {self._zygote.wait(20)}")
        return json.loads(line)
