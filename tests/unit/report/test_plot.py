"""The picture: what is drawn, that it harms nothing around it, and that it stays quick."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from memprof._errors import OutputError, UsageError
from memprof.model.memory import Trend
from memprof.report.plot import PlotOptions, PlotReporter
from memprof.report.plot_series import growth_line, stretches, thin, watched_windows
from tests import factories


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def image(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_picture_has_the_size_asked_for() -> None:
    assert image(PlotReporter().render(factories.leaking())).shape == (800, 1200, 3)
    small = PlotReporter(PlotOptions(width_px=900, height_px=600, dpi=75)).render(factories.leaking())
    assert image(small).shape == (600, 900, 3)


def test_growth_and_peak_are_labelled() -> None:
    figure = PlotReporter().figure(factories.leaking())

    said = texts(figure)
    assert "+38.2 MiB/iteration" in said
    assert "peak 1.76 GiB, iteration 39, backward" in said
    assert "memprof: train.py" in said
    assert "1 error, 1 warning, first: MP101 graph-retained-across-steps" in said


def test_growth_line_follows_the_iterations() -> None:
    diagnosis = factories.leaking()
    upper = PlotReporter().figure(diagnosis).axes[0]

    line = next(line for line in upper.lines if line.get_label() == "growth (train)")
    ends = next(line for line in upper.lines if line.get_label() == "allocated at end")
    np.testing.assert_allclose(line.get_ydata(), np.asarray(ends.get_ydata())[[2, 39]])
    assert diagnosis.model.iterations[39].devices["cpu"].allocated_bytes_end == pytest.approx(
        ends.get_ydata()[-1] * (1 << 30)
    )


def test_clean_run_has_no_growth_label() -> None:
    said = texts(PlotReporter().figure(factories.clean()))

    assert not [text for text in said if "/iteration" in text]
    assert "growth: none" in said
    assert "evaluation" in said


@pytest.mark.parametrize(("scenario", "source"), [("simulated", "simulated"), ("steps_only", "estimated")])
def test_source_is_named_where_it_is_not_measured(scenario: str, source: str) -> None:
    titles = [axes.get_title(loc="left") for axes in PlotReporter().figure(factories.SCENARIOS[scenario]()).axes]

    assert titles[0].endswith(f"({source})")
    assert "(" not in PlotReporter().figure(factories.leaking()).axes[0].get_title(loc="left")


def test_unknown_iterations_leave_gaps() -> None:
    upper = PlotReporter().figure(factories.steps_only()).axes[0]

    ends = next(line for line in upper.lines if line.get_label() == "allocated at end")
    assert np.flatnonzero(np.isnan(ends.get_ydata())).tolist() == [3, 5]


def test_unwatched_stretches_are_gaps_and_said_to_be() -> None:
    figure = PlotReporter().figure(factories.windows())

    said = texts(figure)
    assert "7 to 119 not watched" in said
    assert [text for text in said if text.startswith("Hatched: storages were not watched")]
    lower = figure.axes[1]
    areas = [c for c in lower.collections if isinstance(c, PolyCollection) and c.get_label() != "not watched"]
    assert len([area for area in areas if area.get_label() == "ACTIVATION"]) == 1
    assert len(areas) == 2 * 7  # two windows, seven categories


def test_levels_without_composition_say_so() -> None:
    assert "storages were not watched, so the composition is unknown" in texts(
        PlotReporter().figure(factories.steps_only())
    )


def test_empty_run_says_so() -> None:
    assert "nothing recorded" in texts(PlotReporter().figure(factories.empty()))


def test_composition_without_iterations_is_over_time() -> None:
    whole = factories.leaking()

    figure = PlotReporter().figure(replace(whole, model=replace(whole.model, iterations=())))

    assert figure.axes[1].get_xlabel() == "time, s"
    assert figure.axes[1].get_xlim()[1] == pytest.approx(0.5)
    assert "no iteration was recorded" in texts(figure)


def test_each_device_has_its_column() -> None:
    figure = PlotReporter().figure(factories.two_devices())

    assert [axes.get_title(loc="left").split()[2] for axes in figure.axes[::2]] == ["cuda:0", "cuda:1"]
    assert figure.get_figwidth() == pytest.approx(21)


def test_many_devices_are_cut_and_counted() -> None:
    whole = factories.clean()
    names = [f"cuda:{n}" for n in range(11)]
    only = whole.model.iterations[0].devices["cpu"]
    made = tuple(replace(i, devices=dict.fromkeys(names, only)) for i in whole.model.iterations)
    model = replace(whole.model, iterations=made, peaks={}, composition={}, trends={}, devices=tuple(names))
    model.run.devices = tuple(names)

    figure = PlotReporter().figure(replace(whole, model=model))

    assert len(figure.axes) == 16
    assert "3 more devices are not shown." in texts(figure)


def test_names_are_never_mathematics_and_always_have_glyphs() -> None:
    for build in (factories.hostile, factories.non_ascii):
        figure = PlotReporter().figure(build())
        assert not any(text.get_parse_math() for text in figure.findobj(Text) if text.get_text())
    # A warning about a missing glyph or a failure in mathtext would be an error here.
    broken = factories.hostile("/p/$\\frac{_^$\U0001f525训.py")
    assert image(PlotReporter().render(broken)).std() > 10


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG", ""])
def test_suffix_chooses_the_format(suffix: str, tmp_path: Path) -> None:
    path = PlotReporter().save(factories.hostile(), tmp_path / f"plot{suffix}")

    starts = {".svg": b"<?xml", ".pdf": b"%PDF"}
    content = path.read_bytes()
    assert content.startswith(starts.get(suffix, b"\x89PNG"))
    if suffix == ".svg":
        ET.fromstring(content)
        assert b"</script>" not in content


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"'\.bmp' is not a format it knows.*\.png, \.svg, \.pdf"):
        PlotReporter().save(factories.clean(), tmp_path / "plot.bmp")
    with pytest.raises(UsageError, match="known: png, svg, pdf"):
        PlotOptions(format="bmp")
    with pytest.raises(UsageError, match="positive"):
        PlotOptions(width_px=0)


def test_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*No such file or directory\. Create the folder"):
        PlotReporter().save(factories.clean(), tmp_path / "missing" / "plot.png")


def test_folder_as_target_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "plot.png").mkdir()
    with pytest.raises(OutputError, match="It is a folder: add a file name"):
        PlotReporter().save(factories.clean(), tmp_path / "plot.png")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "plot.png").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left"):
        PlotReporter().save(factories.clean(), tmp_path / "plot.png")


def settings() -> dict[str, object]:
    # Asking for the backend chooses one; test_backend_is_not_chosen looks at that.
    return {name: value for name, value in mpl.rcParams.copy().items() if name != "backend"}


def test_settings_of_the_user_are_neither_changed_nor_obeyed() -> None:
    plain = PlotReporter().render(factories.leaking())
    user = {
        "text.usetex": True,
        "figure.facecolor": "black",
        "axes.facecolor": "black",
        "axes.grid": True,
        "font.family": "serif",
        "savefig.bbox": "tight",
        "figure.constrained_layout.use": True,
    }
    with mpl.rc_context(user):
        before = settings()
        assert PlotReporter().render(factories.leaking()) == plain
        assert settings() == before


def test_backend_is_not_chosen() -> None:
    program = (
        "import sys, matplotlib\n"
        "from memprof.report.plot import PlotReporter\n"
        "from tests import factories\n"
        "PlotReporter().render(factories.leaking())\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert not isinstance(dict.__getitem__(matplotlib.rcParams, 'backend'), str)\n"
    )
    root = Path(__file__).parents[3]
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root, env=environment)


def test_long_run_is_thinned_and_quick() -> None:
    diagnosis = factories.long_run(10_000, 20)

    started = time.perf_counter()
    figure = PlotReporter().figure(diagnosis)
    content = PlotReporter().render(diagnosis)
    elapsed = time.perf_counter() - started

    assert elapsed < 15  # about one second on two cores
    assert len(content) < 400_000
    assert max(len(line.get_xdata()) for line in figure.axes[0].lines) < 3000
    windows = watched_windows(diagnosis.model, "cpu", 2400)
    drawn = max(sum(point.by_category.values()) for window in windows for point in window.points)
    assert drawn == max(sum(p.by_category.values()) for p in diagnosis.model.composition["cpu"])
    assert sum(len(window.points) for window in windows) < 3000


def test_thinning_keeps_extremes_ends_and_gaps() -> None:
    values = np.random.default_rng(3).normal(size=5000)
    values[1234], values[4321], values[2500:2510] = 99.0, -99.0, np.nan

    kept = thin(values, 300)

    assert len(kept) <= 320
    assert {0, 1234, 4321, 4999} <= set(kept.tolist())
    assert np.isnan(values[kept]).any()
    assert (np.diff(kept) > 0).all()
    assert thin(values[:100], 300).tolist() == list(range(100))
    assert len(thin(np.full(1000, np.nan), 30)) >= 2


def test_stretches_are_unbroken_runs() -> None:
    assert stretches([True, True, False, True, False, False, True]) == [(0, 1), (3, 3), (6, 6)]
    assert stretches([]) == []


def test_growth_line_needs_a_known_iteration() -> None:
    made = factories.iterations(5, growth=10)
    trend = Trend(10.0, 1, 4, 4, 1.0, made[0].devices["cpu"].source)

    assert growth_line(made, "cuda:7", trend) is None
    assert growth_line(made, "cpu", replace(trend, bytes_per_iteration=float("nan"))) is None
    line = growth_line(made, "cpu", trend)
    assert line is not None
    assert line.nbytes[1] == made[4].devices["cpu"].allocated_bytes_end


def test_points_stay_in_the_iteration_they_name() -> None:
    diagnosis = factories.windows()

    windows = watched_windows(diagnosis.model, "cpu", 2400)

    assert [(window.first, window.last) for window in windows] == [(3, 6), (120, 123)]
    for window in windows:
        assert all(abs(x - (p.iteration or 0)) <= 0.5 for x, p in zip(window.x, window.points, strict=True))
        assert (np.diff(window.x) >= 0).all()


def test_axis_that_does_not_start_at_zero_says_so() -> None:
    whole = factories.clean()
    level = 10 << 30
    made = tuple(
        replace(i, devices={"cpu": factories.device_iteration(level, level + n, level + 2 * n)})
        for i, n in zip(whole.model.iterations, range(0, 30 << 20, 1 << 20), strict=True)
    )
    model = replace(whole.model, iterations=made, peaks={"cpu": factories.peak_of(made)}, trends={})
    # Phase peaks far below would keep the axis at 0.
    for iteration in made:
        iteration.devices["cpu"].phase_peaks.clear()

    upper = PlotReporter().figure(replace(whole, model=model)).axes[0]

    assert upper.get_ylabel() == "allocated, GiB (not from 0)"
    assert upper.get_ylim()[0] > 9.9
    assert PlotReporter().figure(whole).axes[0].get_ylim()[0] == 0


def test_device_of_which_nothing_is_known_says_so() -> None:
    whole = factories.clean()
    unknown = factories.device_iteration(None, None, None)
    made = tuple(replace(i, devices={"cpu": unknown}) for i in whole.model.iterations)

    figure = PlotReporter().figure(replace(whole, model=replace(whole.model, iterations=made, peaks={}, trends={})))

    assert "memory of this device is unknown" in texts(figure)


def test_growth_line_is_that_of_its_iterations_whatever_lies_between() -> None:
    made = [
        replace(row, kind="train" if row.index % 4 == 0 else "evaluate") for row in factories.iterations(17, growth=10)
    ]
    trend = Trend(40.0, 0, 16, 5, 1.0, made[0].devices["cpu"].source)

    line = growth_line(made, "cpu", trend)

    assert line is not None
    assert [*line.nbytes] == [made[0].devices["cpu"].allocated_bytes_end, made[16].devices["cpu"].allocated_bytes_end]
