"""Shared by all tests: options, golden files, and the check that memprof leaves nothing behind."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.cuda.place import why_missing

CUDA_DIR = Path(__file__).parent / "cuda"
GOLDEN_DIR = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens",
        action="store_true",
        default=False,
        help="write what the code says now to tests/golden instead of comparing with it",
    )
    parser.addoption(
        "--require-cuda",
        action="store_true",
        default=False,
        help="fail where tests/cuda cannot run, instead of skipping it",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark all of `tests/cuda`, and skip it where it cannot run."""
    marked = [item for item in items if CUDA_DIR in item.path.parents]
    if not marked:
        return
    reason = why_missing()
    if reason is not None and config.getoption("--require-cuda"):
        raise pytest.UsageError(f"--require-cuda: {reason}")
    for item in marked:
        item.add_marker(pytest.mark.cuda)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def update_goldens(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written."""
    return bool(request.config.getoption("--update-goldens"))


@pytest.fixture
def golden(update_goldens: bool) -> Callable[[str, str], None]:
    """Compare text with a file below `tests/golden`, or write that file with `--update-goldens`."""

    def compare(name: str, actual: str) -> None:
        path = GOLDEN_DIR / name
        if update_goldens:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(actual, encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"{path} does not exist; write it with --update-goldens, then read what it says")
        assert actual == path.read_text(encoding="utf-8"), (
            f"differs from {path}; if the new text is right: pytest --update-goldens"
        )

    return compare


@pytest.fixture(autouse=True)
def nothing_stays_installed() -> Iterator[None]:
    """Fail a test after which something of memprof is still patched, hooked or running."""
    yield
    left = _left_behind()
    assert not left, "memprof left behind: " + "; ".join(left)


def _left_behind() -> list[str]:
    """Name everything that memprof installs and that is there now."""
    left = [f"thread {thread.name!r}" for thread in threading.enumerate() if _is_memprof_thread(thread)]
    left += [f"gc callback {callback!r}" for callback in gc.callbacks if _is_memprof_object(callback)]
    left += [f"import hook {finder!r}" for finder in sys.meta_path if _is_memprof_object(finder)]
    for hook in ("excepthook", "unraisablehook"):
        if _is_memprof_object(getattr(sys, hook)):
            left.append(f"sys.{hook}")
    for name, function in (("trace", sys.gettrace()), ("profile", sys.getprofile())):
        if function is not None and _is_memprof_object(function):
            left.append(f"sys.set{name} function {function!r}")
    torch = sys.modules.get("torch")
    # A torch that is still being imported, or failed to, has nothing to look at.
    if torch is not None and "torch.optim.optimizer" in sys.modules and hasattr(torch, "autograd"):
        left += _left_in_torch(torch)
    return left


def _left_in_torch(torch: ModuleType) -> list[str]:
    left = []
    home = str(Path(torch.__file__ or "").parent)
    for owner, name in _patchable(torch):
        function = getattr(owner, name)
        code = getattr(function, "__code__", None)
        # Names and modules are copied by functools.wraps; where the code lies is not.
        if code is not None and not code.co_filename.startswith(home):
            left.append(f"{owner.__name__}.{name} is {function!r}")
    for module_name in ("torch.nn.modules.module", "torch.optim.optimizer"):
        for name, value in vars(sys.modules[module_name]).items():
            if name.startswith("_global_") and name.endswith("_hooks") and value:
                left.append(f"{module_name}.{name} holds {list(value.values())!r}")
    if modes := torch._C._len_torch_dispatch_stack():
        left.append(f"{modes} torch dispatch mode(s)")
    if modes := torch._C._len_torch_function_stack():
        left.append(f"{modes} torch function mode(s)")
    if (hooks := torch._C._autograd._top_saved_tensors_default_hooks(True)) is not None:
        left.append(f"saved-tensor hooks {hooks!r}")
    if torch.cuda.is_initialized() and torch._C._cuda_isHistoryEnabled():
        left.append("CUDA allocator history")
    return left


def _patchable(torch: ModuleType) -> Iterator[tuple[object, str]]:
    """Yield the functions of torch that a profiler may be tempted to replace."""
    yield torch.nn.Module, "__call__"
    yield torch.nn.Module, "_call_impl"
    yield torch.nn.Module, "__setattr__"
    yield torch.nn.Module, "zero_grad"
    yield torch.Tensor, "backward"
    yield torch.optim.Optimizer, "__init__"
    yield torch.optim.Optimizer, "zero_grad"
    yield torch.optim.Optimizer, "profile_hook_step"
    yield torch.autograd, "backward"
    yield torch.autograd, "grad"
    for module in (torch.autograd, torch.autograd.graph):
        if hasattr(module, "_engine_run_backward"):
            yield module, "_engine_run_backward"
    data = sys.modules.get("torch.utils.data.dataloader")
    if data is not None:
        yield data.DataLoader, "__iter__"
        yield data._BaseDataLoaderIter, "__next__"
        yield data._BaseDataLoaderIter, "__init__"


def _is_memprof_thread(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return (
        thread.name.startswith("memprof")
        or type(thread).__module__.startswith("memprof.")
        or (target is not None and _is_memprof_object(target))
    )


def _is_memprof_object(value: object) -> bool:
    """Whether a function, a bound method or an instance comes from memprof."""
    value = getattr(value, "__self__", None) or value
    module = getattr(value, "__module__", None) or type(value).__module__
    return isinstance(module, str) and (module == "memprof" or module.startswith("memprof."))
