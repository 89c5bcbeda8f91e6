"""Runs a script or module in this process as `python` would."""

from __future__ import annotations

import builtins
import importlib.util
import os
import sys
import sysconfig
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memprof._errors import UsageError


@dataclass(frozen=True, slots=True)
class Program:
    """What to run.

    Attributes:
        name: File or module name as the user gave it.
        argv: `sys.argv` for it.
        file: Its source file.
        code: Compiled source.
        package: Value of `__package__`; None for a script.
        search_path: What `python` would put at `sys.path[0]`.
    """

    name: str
    argv: tuple[str, ...]
    file: str
    code: types.CodeType
    package: str | None
    search_path: str

    @property
    def stem(self) -> str:
        """Name for files that belong to the run: `train` for `train.py`."""
        return Path(self.name).stem if self.package is None else self.name


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended."""

    exit_status: int
    exception: str | None
    interrupted: bool = False


def load_script(path: str, args: tuple[str, ...]) -> Program:
    """Read and compile a script.

    Raises:
        UsageError: There is no such file or it cannot be read.
        SyntaxError: As `python` would raise it.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "__main__.py"
    try:
        source = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot open script {path!r}: {error.strerror or error}") from error
    code = compile(source, str(path), "exec", dont_inherit=True)
    return Program(path, (path, *args), str(path), code, None, str(file.resolve().parent))


def load_module(name: str, args: tuple[str, ...]) -> Program:
    """Find and compile a module as `python -m` does; a package runs its `__main__`.

    Raises:
        UsageError: There is no such module, or it has no source.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError, AttributeError) as error:
        raise UsageError(f"cannot find module {name!r}: {error}") from error
    loader = spec.loader if spec is not None else None
    get_code = getattr(loader, "get_code", None)
    code = get_code(spec.name) if spec is not None and get_code is not None else None
    if spec is None or code is None or spec.origin is None:
        raise UsageError(f"cannot find a module named {name!r} to run; is the working directory right?")
    return Program(name, (spec.origin, *args), spec.origin, code, spec.parent or "", os.getcwd())


def user_folders(program: Program) -> tuple[str, ...]:
    """Installed folders whose code is the user's own: that of a module run with `-m`."""
    folder = os.path.dirname(os.path.realpath(program.file))
    if program.package:
        for _ in program.package.split(".")[1:]:
            folder = os.path.dirname(folder)
    elif folder in {os.path.realpath(path) for path in sysconfig.get_paths().values()}:
        return ()
    return (folder,)


def run(program: Program, *, stopped: type[BaseException]) -> Outcome:
    """Run a program to its end and print its traceback as `python` would.

    Args:
        program: What to run.
        stopped: An exception that ends the program and counts as success.

    Returns:
        Its exit status and its exception, as one line.
    """
    with _as_main(program) as namespace:
        try:
            exec(program.code, namespace)
        except stopped:
            return Outcome(0, None)
        except SystemExit as leave:
            return _outcome_of_exit(leave)
        except KeyboardInterrupt as error:
            _print_traceback(error)
            return Outcome(130, "KeyboardInterrupt", interrupted=True)
        except BaseException as error:
            _print_traceback(error)
            return Outcome(1, "".join(traceback.format_exception_only(type(error), error)).strip())
    return Outcome(0, None)


def _outcome_of_exit(leave: SystemExit) -> Outcome:
    if leave.code is None:
        return Outcome(0, None)
    if isinstance(leave.code, int):
        return Outcome(leave.code & 0xFF, None)
    print(leave.code, file=sys.stderr)
    return Outcome(1, f"SystemExit: {leave.code}")


def _print_traceback(error: BaseException) -> None:
    """Print through `sys.excepthook`, without the frames of memprof that ran the program."""
    trace = error.__traceback__
    own = os.path.dirname(os.path.abspath(__file__))
    while trace is not None and os.path.dirname(os.path.abspath(trace.tb_frame.f_code.co_filename)) == own:
        trace = trace.tb_next
    error.__traceback__ = trace
    hook: Callable[..., object] = sys.excepthook
    hook(type(error), error, trace)


@contextmanager
def _as_main(program: Program) -> Iterator[dict[str, object]]:
    """Make the program `__main__` with its own `sys.argv` and `sys.path[0]`, and put all back after.

    The module stays `sys.modules["__main__"]` while it runs, so that pickling and workers started by
    `spawn` find what the script defines; a spawned worker imports the script itself, without memprof.
    """
    main = types.ModuleType("__main__")
    main.__file__ = program.file
    main.__builtins__ = builtins  # type: ignore[attr-defined]
    if program.package is None:
        main.__spec__ = None
        main.__package__ = None
    else:
        main.__package__ = program.package
        main.__spec__ = importlib.util.find_spec(
            program.name if not program.file.endswith("__main__.py") else f"{program.name}.__main__"
        )
    saved_main, saved_argv, saved_path = sys.modules.get("__main__"), sys.argv, list(sys.path)
    sys.modules["__main__"] = main
    sys.argv = list(program.argv)
    sys.path.insert(0, program.search_path)
    try:
        yield main.__dict__
    finally:
        sys.argv = saved_argv
        sys.path[:] = saved_path
        if saved_main is not None:
            sys.modules["__main__"] = saved_main
