"""The distribution: what importing costs, what is installed, what a wheel holds."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from memprof._version import __version__

ROOT = Path(__file__).parents[2]
HEAVY = ["torch", "numpy", "matplotlib", "rich", "pandas", "plotly"]
"""Packages that take long to import and that `import memprof` has no use for yet."""

PACKAGE_DATA = ["memprof/py.typed", "memprof/report/schema.json"]


def _imported_by(code: str) -> list[str]:
    """Run code in a fresh interpreter and return which of the heavy packages it imported."""
    ask = f"import json, sys\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    program = f"{code}\n{ask}"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    loaded = json.loads(result.stdout.splitlines()[-1])
    assert isinstance(loaded, list)
    return loaded


def test_importing_memprof_imports_nothing_heavy() -> None:
    assert _imported_by("import memprof") == []


def test_listing_the_public_names_imports_nothing_heavy() -> None:
    assert _imported_by("import memprof; dir(memprof); memprof.__version__; memprof.__all__") == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["analyze", "--help"], ["report", "--help"]], ids=" ".join
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from memprof.cli import main\n"
        f"sys.argv = ['memprof', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )

    # rich may draw the help itself.
    assert [name for name in _imported_by(code) if name != "rich"] == []


def test_every_public_name_is_there() -> None:
    code = "import memprof\nfor name in memprof.__all__: getattr(memprof, name)"

    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import memprof

    with pytest.raises(AttributeError, match="no_such_name"):
        memprof.no_such_name  # noqa: B018 - the look-up is what is tested


@pytest.fixture(scope="module")
def distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("torch-memprof")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("memprof is not installed here, only importable; `make test` installs it")


def test_the_command_is_installed(distribution: importlib.metadata.Distribution) -> None:
    commands = {entry.name: entry.value for entry in distribution.entry_points if entry.group == "console_scripts"}

    assert commands == {"memprof": "memprof.cli:main"}


def test_the_installed_version_is_that_of_the_source(distribution: importlib.metadata.Distribution) -> None:
    assert distribution.version == __version__, "run `make clean` or install again: the version has changed"


def test_torch_is_not_capped(distribution: importlib.metadata.Distribution) -> None:
    (torch,) = [name for name in distribution.requires or [] if re.match(r"torch\b", name)]

    assert "<" not in torch
    assert "==" not in torch


@pytest.mark.parametrize("how", [["-m", "memprof"], ["-c", "from memprof.cli import main; main()"]])
def test_version_is_printed(how: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, *how, "--version"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )

    assert __version__ in result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel as an installer would, from the checkout and without a network."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=120,
    )
    (path,) = out.glob("*.whl")
    return path


def test_a_wheel_holds_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "memprof").rglob("*.py")}

    assert wheel.name == f"torch_memprof-{__version__}-py3-none-any.whl"
    assert sources <= names
    assert set(PACKAGE_DATA) <= names
    assert {name.split("/")[0] for name in names} == {"memprof", f"torch_memprof-{__version__}.dist-info"}


def test_a_wheel_carries_its_licence_and_readme(wheel: Path) -> None:
    info = f"torch_memprof-{__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{info}/METADATA").decode("utf-8")
        licence = archive.read(f"{info}/licenses/LICENSE").decode("utf-8")

    assert "License-Expression: MIT" in metadata
    assert "memprof contributors" in licence
    assert "# memprof" in metadata
