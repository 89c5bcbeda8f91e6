"""A process that has imported torch and memprof and run nothing, and forks a child for each piece of work.

Importing torch takes seconds; initialising CUDA can be done once in a process. So tests send what they want to run
to a zygote, whose child starts at once and initialises CUDA for itself.

Requests and replies are lines of JSON over a socket pair. The zygote is started with the environment that must
be there when libraries are loaded; what a request brings counts from its child on.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
START_TIMEOUT_S = 120
GRACE_S = 10
"""How much longer than its child's time limit the zygote may take to answer."""
PRELOADED = (
    "torch",
    "torchvision",  # where it is installed
    "torch._dynamo",  # torch.optim asks for it when it is first used
    "memprof.capture.session",
    "memprof.advise.diagnosis",
    "memprof.cli.analyze",
    "memprof.report.json_report",
)


class PayloadError(AssertionError):
    """What ran in the child failed; the message has the child's traceback and output."""


class Zygote:
    """The zygote as seen by the tests.

    Args:
        environment: Its environment, in force when libraries are loaded.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.zygote", str(theirs.fileno())],
                cwd=REPOSITORY,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._socket = ours
        self._replies = ours.makefile("rb")
        self._ready = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(
        self,
        function: Callable[..., Any],
        kwargs: Mapping[str, Any],
        *,
        env: Mapping[str, str],
        cwd: Path,
        timeout_s: float,
    ) -> Any:
        """Call a module's function in a fresh child.

        Args:
            function: A function at the top level of a module of the repository.
            kwargs: Its arguments; they travel as JSON.
            env: Environment variables to set in the child before it calls the function.
            cwd: The child's working directory.
            timeout_s: When to kill the child.

        Returns:
            What the function returned, after a journey as JSON.

        Raises:
            PayloadError: The function raised, the child died, or it took too long.
        """
        assert "." not in function.__qualname__, "only functions at the top level of a module can be sent"
        module = Path(function.__code__.co_filename).relative_to(REPOSITORY).with_suffix("")
        with tempfile.TemporaryDirectory(prefix="memprof-zygote-") as folder:
            request = {
                "module": ".".join(module.parts),
                "function": function.__name__,
                "kwargs": dict(kwargs),
                "env": dict(env),
                "cwd": str(cwd),
                "folder": folder,
                "timeout_s": timeout_s,
            }
            status = self._ask(request, timeout_s + GRACE_S)
            output = "".join(
                f"\n--- {name}\n{text}"
                for name in ("stdout", "stderr")
                if (text := (Path(folder) / name).read_text(encoding="utf-8", errors="replace"))
            )
            result = Path(folder) / "result.json"
            answer = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
        if status != "exited 0" or "value" not in answer:
            raise PayloadError(f"{function.__name__}({kwargs}): {status}\n{answer.get('error', '')}{output}")
        return answer["value"]

    def _ask(self, request: Mapping[str, Any], timeout_s: float) -> str:
        try:
            if not self._ready:
                self._socket.settimeout(START_TIMEOUT_S)
                self._reply()
                self._ready = True
            self._socket.settimeout(timeout_s)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            return str(self._reply()["status"])
        except OSError as error:
            self.close()
            raise PayloadError(f"the zygote did not answer: {error}") from error

    def _reply(self) -> Any:
        line = self._replies.readline()
        if not line:
            raise OSError(f"it ended with status {self._process.wait(GRACE_S)}")
        return json.loads(line)

    def close(self) -> None:
        """End the process, which ends by itself when nobody can ask it any more."""
        self._replies.close()
        self._socket.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(connection: socket.socket) -> None:
    """Answer requests until the other end is closed."""
    for name in PRELOADED:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    import torch

    assert not torch.cuda.is_initialized(), "an import initialised CUDA"
    gc.collect()  # so that each child's first collections come when they would in a process of its own
    requests = connection.makefile("rb")
    connection.sendall(b'{"status": "ready"}\n')
    while line := requests.readline():
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(connection, request)
        status = _wait(pid, request["timeout_s"])
        connection.sendall(json.dumps({"status": status}).encode() + b"\n")


def _child(connection: socket.socket, request: Mapping[str, Any]) -> None:
    """Do what was asked and end; never returns."""
    status = 1
    try:
        os.setsid()  # so that whatever it starts can be ended with it
        connection.close()
        folder = Path(request["folder"])
        for name, stream in (("stdout", 1), ("stderr", 2)):
            file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(file, stream)
            os.close(file)
        faulthandler.enable()
        answer = _answer(request)
        (folder / "result.json").write_text(json.dumps(answer), encoding="utf-8")
        status = 0 if "value" in answer else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        # Without the exit handlers: the ones installed before the fork are the zygote's.
        os._exit(status)


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    configure = getattr(ctypes.CDLL(None), "nullcuda_configure", None)
    if configure is not None:
        configure()
    try:
        function = getattr(importlib.import_module(request["module"]), request["function"])
        return {"value": function(**request["kwargs"])}
    except BaseException:
        return {"error": traceback.format_exc()}


def _wait(pid: int, timeout_s: float) -> str:
    """Wait for a child, and kill it and what it started when its time is up."""
    with os.fdopen(os.pidfd_open(pid)) as descriptor:
        ended = select.select([descriptor], [], [], timeout_s)[0]
    # Also after a normal end: the child may have left processes of its own.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if not ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not ended:
        return f"killed: it took longer than {timeout_s:g} s"
    return f"exited {code}" if code >= 0 else f"died of {signal.Signals(-code).name}"


if __name__ == "__main__":
    # Nobody may be left to answer: a caller that has what it wanted does not wait for a zygote to start.
    with socket.socket(fileno=int(sys.argv[1])) as inherited, contextlib.suppress(ConnectionError):
        serve(inherited)
