"""The small event kinds as JSON, and back."""

from __future__ import annotations

import dataclasses
import json
from operator import attrgetter
from typing import Any

from memprof.record.census import (
    Census,
    CodeRegion,
    ContextTensor,
    GradientGraph,
    GraphRoot,
    HeldGroup,
    Holder,
    KeptGraph,
    Population,
)
from memprof.record.events import DeviceState, Location, ModuleRef, OutOfMemory, ParameterProfile, ParameterShare, Phase
from memprof.record.run_info import (
    EqualSpan,
    Failure,
    GatheredOutputs,
    HiddenParameters,
    ModelPart,
    OptimizerMade,
    PaddedBatch,
    RunInfo,
    TensorFact,
)
from memprof.record.typed import typed

_STATE_FIELDS = tuple(field.name for field in dataclasses.fields(DeviceState))
_STATE_TEXT = "{" + ",".join(f'"{name}":%s' for name in _STATE_FIELDS) + "}"
_state_values = attrgetter(*_STATE_FIELDS)


def dump(value: Census | RunInfo | DeviceState | OutOfMemory | ParameterProfile) -> str:
    """Write one of the small event kinds as one line of ASCII JSON."""
    if isinstance(value, DeviceState):  # one for every tick; the encoder takes several times as long for integers
        device, *integers = _state_values(value)
        return _STATE_TEXT % (json.dumps(device), *("null" if item is None else item for item in integers))
    return json.dumps(dataclasses.asdict(value), separators=(",", ":"))


def load_run(text: str) -> RunInfo:
    """Read what `dump` wrote of a `RunInfo`; keys of newer versions are passed over."""
    data = json.loads(text)
    known = {item.name for item in dataclasses.fields(RunInfo)}
    run = RunInfo(**{key: value for key, value in data.items() if key in known})
    run.argv = tuple(run.argv)
    run.devices = tuple(run.devices)
    run.notes = tuple(run.notes)
    run.optimizers = tuple(
        OptimizerMade(**{**item, "location": _location(item["location"])}) for item in data.get("optimizers", ())
    )
    run.failure = _failure(data.get("failure"))
    run.hidden_parameters = tuple(
        HiddenParameters(
            **{**item, "location": _location(item["location"]), "owner": ModuleRef(*map(str, item["owner"]))}
        )
        for item in data.get("hidden_parameters", ())
    )
    run.model_parts = _tuple_of_parts(data.get("model_parts", ()))
    run.gathered = tuple(
        GatheredOutputs(**{**item, "location": _location(item["location"])}) for item in data.get("gathered", ())
    )
    run.padded_batches = tuple(
        PaddedBatch(**{**item, "location": _location(item["location"])}) for item in data.get("padded_batches", ())
    )
    run.equal_storages = tuple(
        tuple(EqualSpan(int(storage), str(device), int(since), int(until)) for storage, device, since, until in spans)
        for spans in data.get("equal_storages", ())
    )
    return typed(run)


def _tuple_of_parts(data: Any) -> tuple[ModelPart, ...]:
    return tuple(ModelPart(**{**item, "children": tuple(item["children"])}) for item in data)


def _failure(data: dict[str, Any] | None) -> Failure | None:
    if data is None:
        return None
    return Failure(
        **{
            **data,
            "location": _location(data["location"]),
            "call": _location(data["call"]),
            "module": _module(data["module"]),
            "features": None if data["features"] is None else (int(data["features"][0]), int(data["features"][1])),
            "before": tuple(data["before"]),
            "input_shape": tuple(data["input_shape"]),
            "tensors": tuple(
                TensorFact(name, tuple(shape), device, role) for name, shape, device, role in data["tensors"]
            ),
        }
    )


def load_census(text: str) -> Census:
    """Read what `dump` wrote of a `Census`."""
    data = json.loads(text)
    census = Census(
        tick=int(data["tick"]),
        time_ns=int(data["time_ns"]),
        since_tick=int(data["since_tick"]),
        note=str(data["note"]),
        roots=tuple(
            GraphRoot(
                **{
                    **root,
                    "holder": _holder(root["holder"]),
                    "location": _location(root["location"]),
                    "shape": tuple(root["shape"]),
                    "call": _location(root["call"]),
                    "module": _module(root["module"]),
                    "written_at": _location(root.get("written_at")),
                }
            )
            for root in data["roots"]
        ),
        groups=tuple(
            HeldGroup(
                **{
                    **group,
                    "holder": _holder(group["holder"]),
                    "location": _location(group["location"]),
                    "storages": tuple(group["storages"]),
                    "shape": tuple(group["shape"]),
                    "birth_ticks": tuple(group["birth_ticks"]),
                    "graph_storages": tuple(group["graph_storages"]),
                }
            )
            for group in data["groups"]
        ),
        # A recording of format 1 has none of the following.
        regions=tuple(CodeRegion(**region) for region in data.get("regions", ())),
        kept_graphs=tuple(
            KeptGraph(**{**kept, **_tuples(kept, "storages", "ticks")}) for kept in data.get("kept_graphs", ())
        ),
        contexts=tuple(ContextTensor(**{**item, **_tuples(item, "storages")}) for item in data.get("contexts", ())),
        gradients=_gradients(data.get("gradients")),
        populations=tuple(Population(**item) for item in data.get("populations", ())),
    )
    return typed(census)


def _tuples(data: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The location of an event, and those of its lists that are tuples in memory."""
    return {"location": _location(data["location"]), **{key: tuple(data[key]) for key in keys}}


def _gradients(data: dict[str, Any] | None) -> GradientGraph | None:
    return None if data is None else GradientGraph(**{**data, **_tuples(data, "storages")})


def load_state(text: str) -> DeviceState:
    """Read what `dump` wrote of a `DeviceState`."""
    return typed(DeviceState(**json.loads(text)))


def load_oom(text: str) -> OutOfMemory:
    """Read what `dump` wrote of an `OutOfMemory`."""
    data = json.loads(text)
    return typed(OutOfMemory(**{**data, "phase": Phase(data["phase"]), "location": _location(data["location"])}))


def load_parameters(text: str) -> ParameterProfile:
    """Read what `dump` wrote of a `ParameterProfile`."""
    data = json.loads(text)
    shares = (
        ParameterShare(**{**share, "module": ModuleRef(str(share["module"][0]), str(share["module"][1]))})
        for share in data["shares"]
    )
    return typed(ParameterProfile(id=int(data["id"]), shares=tuple(shares)))


def _holder(data: dict[str, Any]) -> Holder:
    return Holder(**{**data, "location": _location(data["location"])})


def _location(data: list[Any] | None) -> Location | None:
    return None if data is None else Location(str(data[0]), int(data[1]), str(data[2]))


def _module(data: list[Any] | None) -> ModuleRef | None:
    return None if data is None else ModuleRef(str(data[0]), str(data[1]))
