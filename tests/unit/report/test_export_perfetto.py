"""The trace export, held against the rules of the Trace Event Format."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from memprof.advise.diagnosis import Diagnosis, diagnose
from memprof.report.export_perfetto import PerfettoReporter
from tests import factories
from tests.unit.model.fake_recording import FakeRecording


def exported(diagnosis: Diagnosis) -> dict:
    return json.loads(PerfettoReporter().render(diagnosis).decode("ascii"))


def check(events: list[dict]) -> None:
    """Every rule of the format that does not depend on the run."""
    named = {event["pid"] for event in events if event["name"] == "process_name"}
    timed = [event for event in events if event["ph"] != "M"]
    assert events[: len(events) - len(timed)] == [event for event in events if event["ph"] == "M"]
    assert [event["ts"] for event in timed] == sorted(event["ts"] for event in timed)
    ends: dict[int, float] = {}
    for event in timed:
        assert event["pid"] in named
        assert isinstance(event["name"], str)
        assert event["ts"] >= 0
        assert event["ph"] in "XCi"
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert event["ts"] >= ends.get(event["tid"], 0) - 1e-6, "slices of one thread may not overlap"
            ends[event["tid"]] = event["ts"] + event["dur"]
        elif event["ph"] == "C":
            assert event["args"]
            assert all(type(value) is int for value in event["args"].values())
        else:
            assert event["s"] in "gpt"


@pytest.mark.parametrize("scenario", sorted(factories.SCENARIOS))
def test_every_scenario_keeps_the_rules(scenario: str) -> None:
    document = exported(factories.SCENARIOS[scenario]())

    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
    check(document["traceEvents"])


def test_iterations_phases_and_counters_of_a_run() -> None:
    fake = FakeRecording()
    for _ in range(3):
        fake.step(leak=600)
    diagnosis = diagnose(fake)
    events = exported(diagnosis)["traceEvents"]

    check(events)
    slices = [event["name"] for event in events if event["ph"] == "X"]
    assert [name for name in slices if "iteration" in name] == [f"train iteration {index}" for index in range(3)]
    phases = [name for name in slices if "iteration" not in name]
    assert phases == ["forward", "backward", "optimizer"] * 3
    composed = [event["args"] for event in events if event["name"] == "by category"]
    assert composed == [dict(point.by_category) for point in diagnosis.model.composition["cpu"]]


def test_every_device_is_a_process_with_its_own_counters() -> None:
    events = exported(factories.two_devices())["traceEvents"]

    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {1: "run /project/train.py", 2: "memory of cuda:0", 3: "memory of cuda:1"}
    assert {event["pid"] for event in events if event["ph"] == "C"} == {2, 3}


def test_a_finding_stands_at_the_peak_of_its_device() -> None:
    diagnosis = factories.leaking()
    found = [event for event in exported(diagnosis)["traceEvents"] if event["ph"] == "i"]

    assert [event["name"] for event in found] == [f"{each.code} {each.name}" for each in diagnosis.findings]
    assert found[0]["ts"] == diagnosis.model.peaks["cpu"].time_ns / 1000
    assert found[0]["args"]["place"] == "/project/train.py:41 in train"


def test_unknown_figures_have_no_event_and_estimates_say_so() -> None:
    text = PerfettoReporter().render(factories.steps_only()).decode()

    assert "null" not in text
    assert "(estimated)" in text


def test_markup_cannot_leave_a_script_element() -> None:
    diagnosis = factories.leaking()
    run = replace(diagnosis.model.run, script="/</script><!--.py")
    text = PerfettoReporter().render(replace(diagnosis, model=replace(diagnosis.model, run=run))).decode()

    assert "</script" not in text
    assert "<!--" not in text
    assert json.loads(text)["otherData"]["script"] == "/</script><!--.py"
