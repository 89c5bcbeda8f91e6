"""The JSON report: the contract other programs rely on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest

from memprof.detect.finding import REMEDY_SLUGS
from memprof.report.json_report import JsonOptions, JsonReporter, report_document, report_schema
from tests import factories

FINDING_KEYS = (
    "code name kind severity location related device bytes bytes_per_iteration source message holder evidence remedies"
).split()


def parsed(diagnosis) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(JsonReporter().render(diagnosis), parse_constant=refuse)


def test_schema_itself_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(report_schema())


@pytest.mark.parametrize("scenario", sorted(factories.SCENARIOS))
def test_report_fits_the_schema(scenario: str) -> None:
    validator = jsonschema.Draft202012Validator(report_schema())

    assert [error.message for error in validator.iter_errors(parsed(factories.SCENARIOS[scenario]()))] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "memprof.report/2"),
        (("findings", 0, "severity"), "fatal"),
        (("findings", 0, "surplus"), 1),
        (("findings", 0, "remedies", 0, "slug"), "pray"),
        (("findings", 0, "bytes"), 1.5),
        (("iterations", 0, "allocated_bytes_end"), "38 MiB"),
        (("peak", 0, "source"), "guessed"),
        (("peak", 0, "by_category"), {"ACTIVATIONS": 1}),
    ],
)
def test_schema_refuses_what_breaks_the_contract(path: tuple[str | int, ...], value: object) -> None:
    document = parsed(factories.leaking())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(report_schema()).validate(document)


def objects(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "properties" in schema:
        yield schema
    for value in schema.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Mapping):
                yield from objects(part)


def test_schema_describes_and_requires_every_field() -> None:
    for part in objects(report_schema()):
        assert part["required"] == list(part["properties"])
        for name, field in part["properties"].items():
            assert field.get("description") or "$ref" in field, name


def test_every_field_written_is_in_the_schema() -> None:
    top = report_schema()["properties"]
    device = top["iterations"]["items"]["properties"]["devices"]["additionalProperties"]["properties"]
    met = set()

    for make in factories.SCENARIOS.values():
        document = parsed(make())
        assert list(document) == list(top)
        assert list(document["run"]) == list(top["run"]["properties"])
        for name, value in document.items():
            if "properties" in top[name].get("items", {}):
                for item in value:
                    assert list(item) == list(top[name]["items"]["properties"])
                    met.add(name)
        assert all(list(found) == list(device) for item in document["iterations"] for found in item["devices"].values())
    assert met >= {"peak", "trend", "accounts", "ooms", "snapshot", "iterations", "skipped"}


def test_a_peak_that_is_an_estimate_is_not_called_measured() -> None:
    iteration = parsed(factories.on_cuda())["iterations"][0]

    for figures in (iteration, iteration["devices"]["cuda:0"]):
        assert (figures["source"], figures["peak_source"]) == ("measured", "estimated")
    iteration = parsed(factories.leaking())["iterations"][0]
    assert iteration["peak_source"] == iteration["source"] == "measured"


def test_slugs_of_the_schema_are_those_of_the_code() -> None:
    finding = report_schema()["$defs"]["finding"]["properties"]

    assert set(finding["remedies"]["items"]["properties"]["slug"]["enum"]) == REMEDY_SLUGS


def test_finding_has_exactly_the_agreed_keys() -> None:
    document = parsed(factories.leaking())
    finding = document["findings"][0]

    assert list(finding) == FINDING_KEYS
    assert finding["location"] == {"file": "/project/train.py", "line": 41, "function": "train"}
    assert finding["related"][0] == {
        "role": "allocated",
        "file": "/project/model.py",
        "line": 18,
        "function": "forward",
    }
    assert finding["kind"] == "leak"
    assert finding["severity"] == "error"
    assert finding["bytes_per_iteration"] == 40_055_603.0
    assert [list(remedy) for remedy in finding["remedies"]] == [
        ["slug", "text", "saves_bytes", "source", "growth_removed_bytes"]
    ] * 2
    assert finding["remedies"][0]["source"] == "simulated"
    assert finding["remedies"][1] == {
        "slug": "detach",
        "text": "append `loss.detach()` where the tensor itself is needed",
        "saves_bytes": None,
        "source": None,
        "growth_removed_bytes": None,
    }
    assert document["combined"]["remedies"][0] == {
        "code": "MP101",
        "slug": "item",
        "location": {"file": "/project/train.py", "line": 41, "function": "train"},
    }


def test_flat_figures_are_those_of_the_device_with_the_largest_peak() -> None:
    document = parsed(factories.two_devices())

    assert document["run"]["main_device"] == "cuda:1"
    assert document["run"]["iterations"] == len(document["iterations"]) == 20
    last = document["iterations"][-1]
    assert last["devices"]["cuda:0"]["allocated_bytes_end"] != last["devices"]["cuda:1"]["allocated_bytes_end"]
    for key in (
        "allocated_bytes_start",
        "allocated_bytes_end",
        "peak_allocated_bytes",
        "peak_phase",
        "source",
    ):
        assert last[key] == last["devices"]["cuda:1"][key]
    assert [peak["device"] for peak in document["peak"]] == ["cuda:0", "cuda:1"]
    assert [trend["bytes_per_iteration"] for trend in document["trend"]] == [0.0, 16.0 * (1 << 20)]


def test_unknown_is_null() -> None:
    document = parsed(factories.steps_only())

    assert document["run"]["exit_status"] is None
    assert document["run"]["torch"] is None
    assert document["peak"][0]["by_category"] is None
    assert document["peak"][0]["iteration"] is None
    unknown = document["iterations"][3]
    assert unknown["allocated_bytes_end"] is unknown["peak_allocated_bytes"] is unknown["peak_phase"] is None
    assert document["iterations"][5]["source"] is None
    assert document["findings"][0]["location"] is None
    assert document["findings"][0]["bytes"] is None


def test_evaluation_iterations_are_included() -> None:
    kinds = [iteration["kind"] for iteration in parsed(factories.clean())["iterations"]]

    assert kinds.count("evaluate") == 3
    assert len(kinds) == 30


def test_text_is_ascii_and_safe_inside_html() -> None:
    for build in (factories.hostile, factories.non_ascii):
        text = JsonReporter().to_text(build())
        assert text.isascii()
        assert "</" not in text
    assert parsed(factories.hostile())["run"]["script"].startswith("/project/</script>")
    assert parsed(factories.non_ascii())["run"]["script"] == "/projet/训练_été🔥.py"


def test_values_json_does_not_know_are_reduced() -> None:
    document = parsed(factories.hostile())

    assert document["findings"][0]["evidence"] == {"[red]": "[/red]", "odd": [1, 2], "infinite": None}
    assert document["run"]["argv"][1] == "--name=\\udcff"


def test_document_is_what_is_written() -> None:
    diagnosis = factories.leaking()

    assert parsed(diagnosis) == report_document(diagnosis)


def test_one_line_on_request() -> None:
    text = JsonReporter(JsonOptions(indent=None)).to_text(factories.leaking())

    assert text.count("\n") == 1
