"""Runs a script or module in this process as `python` would."""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import sys
import sysconfig
import tokenize
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import TextIO

from memprof._errors import UsageError
from memprof.capture.overlay import overlaid_text, show_lines
from memprof.capture.tracebacks import without_own_frames


@dataclass(frozen=True, slots=True)
class Program:
    """What to run.

    Attributes:
        name: File or module name as the user gave it.
        argv: `sys.argv` for it.
        file: Its source file, absolute as in `__file__`.
        code: Compiled source.
        spec: Value of `__spec__`; None for a script.
        search_path: What `python` would put at `sys.path[0]`.
    """

    name: str
    argv: tuple[str, ...]
    file: str
    code: types.CodeType
    spec: ModuleSpec | None
    search_path: str

    @property
    def package(self) -> str | None:
        """Value of `__package__`; None for a script."""
        return None if self.spec is None else self.spec.parent or ""

    @property
    def stem(self) -> str:
        """Name for files that belong to the run: `train` for `train.py`."""
        is_script = self.spec is None or self.spec.name == "__main__"
        return Path(os.path.abspath(self.name)).stem if is_script else self.name


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
    file = Path(os.path.join(os.getcwd(), path))
    folder = file if file.is_dir() else None
    if folder is not None:
        file = folder / "__main__.py"
        if not file.is_file():
            raise UsageError(f"{path!r} is a folder without a __main__.py; name a script in it")
    try:
        text = overlaid_text(file)
        source = file.read_bytes() if text is None else text
    except OSError as error:
        raise UsageError(f"cannot open script {path!r}: {error.strerror or error}") from error
    # Joined, not normalised, as `python` does it; Path would lose the "./" of "./train.py".
    name = os.path.join(os.getcwd(), path) if folder is None else str(file)
    show_lines(name)
    code = _compile(source, name)
    spec = None
    if folder is not None:
        spec = importlib.util.spec_from_file_location("__main__", file)
    return Program(path, (path, *args), name, code, spec, str(folder or file.resolve().parent))


def _compile(source: bytes, file: str) -> types.CodeType:
    """Compile a script; its errors read as those of `python` do."""
    try:
        return compile(source, file, "exec", dont_inherit=True)
    except ValueError as error:  # null bytes, before Python 3.12
        raise SyntaxError(str(error), (file, 1, None, None)) from None
    except SyntaxError:
        _refuse_bytes_that_are_no_text(source, file)
        raise


def _refuse_bytes_that_are_no_text(source: bytes, file: str) -> None:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    except SyntaxError:
        encoding = "utf-8"
    if not encoding.startswith("utf-8"):
        return
    try:
        source.decode(encoding)
    except UnicodeDecodeError as error:
        byte, line = source[error.start], source.count(b"\n", 0, error.start) + 1
        raise SyntaxError(
            f"Non-UTF-8 code starting with '\\x{byte:02x}' in file {file} on line {line}, but no encoding declared; "
            "see https://peps.python.org/pep-0263/ for details"
        ) from None


def load_module(name: str, args: tuple[str, ...]) -> Program:
    """Find and compile a module as `python -m` does; a package runs its `__main__`.

    Raises:
        UsageError: There is no such module, or it has no source.
        SyntaxError: As `python` would raise it.
    """
    with _first_on_path(os.getcwd()):
        try:
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.submodule_search_locations is not None:
                spec = importlib.util.find_spec(f"{name}.__main__")
        except (ImportError, ValueError, AttributeError) as error:
            raise UsageError(f"cannot find module {name!r}: {error}") from error
        get_code = getattr(spec.loader, "get_code", None) if spec is not None else None
        code = get_code(spec.name) if spec is not None and get_code is not None else None
    if spec is None or code is None or spec.origin is None:
        raise UsageError(f"cannot find a module named {name!r} to run; is the working directory right?")
    return Program(name, (spec.origin, *args), spec.origin, code, spec, os.getcwd())


def user_folders(program: Program) -> tuple[str, ...]:
    """Installed folders whose code is the user's own: that of a module run with `-m`."""
    folder = os.path.dirname(os.path.realpath(program.file))
    if program.package:
        for _ in program.package.split(".")[1:]:
            folder = os.path.dirname(folder)
    elif folder in {os.path.realpath(path) for path in sysconfig.get_paths().values()}:
        return ()
    return (folder,)


def run(
    program: Program,
    *,
    stopped: type[BaseException],
    failed: Callable[[BaseException], object] = lambda _: None,
) -> Outcome:
    """Run a program to its end and print its traceback as `python` would.

    Args:
        program: What to run.
        stopped: An exception that ends the program and counts as success.
        failed: Told of any other, while its frames are there.

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
            failed(error)
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
    """Print through `sys.excepthook`, without the frames of memprof that ran the program or watched its ops."""
    without_own_frames(error)
    hook: Callable[..., object] = sys.excepthook
    hook(type(error), error, error.__traceback__)


@contextmanager
def _as_main(program: Program) -> Iterator[dict[str, object]]:
    """Make the program `__main__` with its own `sys.argv` and `sys.path[0]`, and put all back after.

    The module stays `sys.modules["__main__"]` while it runs, so that pickling and workers started by
    `spawn` find what the script defines; a spawned worker imports the script itself, without memprof.
    """
    main = types.ModuleType("__main__")
    main.__file__ = program.file
    main.__builtins__ = builtins  # type: ignore[attr-defined]
    main.__spec__ = program.spec
    main.__package__ = program.package
    main.__loader__ = SourceFileLoader("__main__", program.file) if program.spec is None else program.spec.loader
    if sys.version_info < (3, 15):  # where modules have it no more
        main.__cached__ = None if program.spec is None else program.spec.cached  # type: ignore[attr-defined]
    if sys.version_info < (3, 14):  # later, annotations are made when asked for
        main.__annotations__ = {}
    saved_main, saved_argv, streams = sys.modules.get("__main__"), sys.argv, (sys.stdout, sys.stderr)
    sys.modules["__main__"] = main
    sys.argv = list(program.argv)
    try:
        with _first_on_path(program.search_path):
            yield main.__dict__
    finally:
        sys.argv = saved_argv
        _restore_streams(*streams)
        if saved_main is not None:
            sys.modules["__main__"] = saved_main


@contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    """Put a folder where `python` has that of the script, in place of memprof's own."""
    saved = list(sys.path)
    if not getattr(sys.flags, "safe_path", False):
        sys.path[:1] = [folder]
    try:
        yield
    finally:
        sys.path[:] = saved


def _restore_streams(out: TextIO, err: TextIO) -> None:
    """Take back the streams a script has replaced: its logger is not the place for a diagnosis."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue  # closed, or no real stream
    sys.stdout, sys.stderr = out, err
