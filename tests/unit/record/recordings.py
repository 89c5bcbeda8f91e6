"""One recording that holds every kind of event."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path

from memprof.record.blocks import BlockAction, BlockState
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
from memprof.record.events import (
    Birth,
    Death,
    DeviceState,
    Location,
    ModuleRef,
    OutOfMemory,
    ParameterProfile,
    ParameterShare,
    Pass,
    PassFlag,
    PassKind,
    Phase,
    Role,
    RoleFact,
    Sample,
    Tick,
    TickFlag,
)
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
from memprof.record.schema import NONE
from memprof.record.writer import RecordingWriter

LINE = Location("/home/jürgen/训练.py", 41, "train.<locals>.step")
FORWARD_LINE = Location("<stdin>", 7, "<module>")
MODULE = ModuleRef("encoder.layers.0", "Linear")
HOLDER = Holder(
    kind="local",
    text="list `history` in `train()`, 3 tensors",
    name="history['loss']",
    container="list",
    size=3,
    bounded=True,
    location=LINE,
    owner="train",
    keyed_by="tensor",
    hits=2,
)
RUN = RunInfo(
    script="/home/jürgen/训练.py",
    argv=("train.py", "--lr", "0.1"),
    python="3.11",
    torch="2.13",
    memprof="0.1",
    platform="Linux",
    level="tensors",
    devices=("cuda:0", "cpu"),
    counter={"cuda:0": "caching allocator", "cpu": "glibc malloc"},
    started_unix_ns=1_800_000_000_000_000_001,
    has_optimizer=True,
    notes=("a note",),
    simulated_gpu="A100-40GB",
    dry=True,
    allocator_settings={"max_split_size": -1, "roundup_power2_divisions": {"1": 4}},
    optimizers=(
        OptimizerMade("AdamW", Location("/home/jürgen/训练.py", 7, "main"), 4096),
        OptimizerMade("SGD", None, None),
    ),
    failure=Failure(
        kind="shape",
        message="mat1 and mat2 shapes cannot be multiplied (4x576 and 400x120)",
        location=Location("/home/jürgen/训练.py", 12, "Net.forward"),
        call=None,
        root="Net",
        module=ModuleRef("fc.1", "Linear"),
        inside=True,
        features=(400, 120),
        before=(4, 16, 6, 6),
        input_shape=(4, 3, 36, 36),
        tensors=(TensorFact("input", (4, 576), "cpu", "argument"), TensorFact("weight", (), "cuda:0", "parameter")),
    ),
    hidden_parameters=(
        HiddenParameters(
            root="Net",
            owner=ModuleRef("body", "Body"),
            attribute="layers",
            container="list",
            holds="Linear, ReLU",
            location=Location("/home/jürgen/训练.py", 3, "Body.__init__"),
            parameters=2,
            nbytes=288,
            device="cpu",
            root_device="cuda:0",
            got_gradient=True,
            in_optimizer=False,
            root_in_optimizer=True,
        ),
    ),
    model_parts=(ModelPart("Net", "cuda:0", 4096, ("a", "b")), ModelPart("Net", "cuda:1", 8, ())),
    gathered=(GatheredOutputs(Location("/home/jürgen/训练.py", 31, "main"), "cuda:0", 2, 512, 7),),
    padded_batches=(PaddedBatch(Location("/home/jürgen/训练.py", 9, "main"), 3, 0, 32, 128, 7, 120, 0.5),),
    equal_storages=((EqualSpan(0, "cuda:0", 1, 1 << 62), EqualSpan(1, "cuda:0", 2, 9)),),
    extra={"k": [1, None]},
)
TICKS = (
    Tick(0, 0, 5, TickFlag(0)),
    Tick(
        index=1,
        start_ns=6,
        end_ns=1 << 62,
        flags=TickFlag.FORWARD | TickFlag.BACKWARD | TickFlag.TRACKED | TickFlag.FINAL | TickFlag.BLOCKS,
        consumed=(0, 1),
        samples=(
            Sample(6, Phase.OTHER, False, "cuda:0", 0, 1 << 40, 0, 12),
            Sample(7, Phase.BACKWARD, True, "cpu", 123, None, None),
        ),
        forward_bytes=0,
        epoch=3,
        call=LINE,
    ),
)
BIRTHS = (
    Birth(0, 1, 0, Phase.OTHER, 0, "float32", "cpu", "aten::empty", None, None, None),
    Birth(1, 7, 1, Phase.BACKWARD, 1 << 50, "complex64", "cuda:0", "aten::mm", LINE, FORWARD_LINE, MODULE, 1 << 45),
)
DEATHS = (Death(0, 2, 0, Phase.OTHER), Death(1, 9, 1, Phase.OPTIMIZER))
ROLES = (RoleFact(0, Role.PARAMETER | Role.OUTPUT, "gewicht.ß"), RoleFact(1, Role.SAVED, ""))
CENSUS = Census(
    tick=1,
    time_ns=99,
    roots=(
        GraphRoot(
            storage=1,
            holder=HOLDER,
            grad_fn="AddBackward0",
            shape=(2, 3),
            nodes=17,
            saved_bytes=4,
            location=LINE,
            born_tick=0,
            truncated=True,
            op="aten::add",
            in_forward=True,
            carried=True,
            call=FORWARD_LINE,
            module=MODULE,
            parameter=1,
            written_at=LINE,
            holds_parts=True,
        ),
        GraphRoot(None, Holder("unknown", "?"), "MulBackward0", (), 1, 0, None, 1),
    ),
    groups=(
        HeldGroup(
            location=LINE,
            op="aten::mean",
            holder=HOLDER,
            storages=(0, 1),
            nbytes=8,
            has_graph=True,
            shape=(1,),
            birth_ticks=(0, 1),
            graph_nodes=3,
            graph_bytes=5,
            graph_storages=(1,),
        ),
    ),
    since_tick=0,
    note="cut short",
    regions=(CodeRegion("hook", "forward hook on `encoder`", LINE.file, 3, 5),),
    kept_graphs=(KeptGraph(LINE, True, 4, 1, 17, 8, (0, 1), (0, 1)), KeptGraph(None, False, 3, 0, 9, 0, ())),
    contexts=(ContextTensor("Square", "x", LINE, 4, (1,)), ContextTensor("Cube", "y", None, 4, ())),
    gradients=GradientGraph(2, 30, 8, (0, 1), LINE),
    populations=(Population("optimizer", "Adam", 0, 2, 4, 4, 64, 1),),
)


STATES = (
    DeviceState("cuda:0", 0, 5, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23),
    DeviceState("cuda:1", 1, 6, 10, 11, 12, 13, 14, None, 0, 0, None, None),
)
OOMS = (
    OutOfMemory(1, 8, "cuda:0", Phase.BACKWARD, 512, 2 << 20, 8 << 30, 1 << 20, 7 << 30, 8 << 30, 4, 5, LINE, 6, 7),
    OutOfMemory(1, 9, "cuda:1", Phase.OTHER, 512, 2 << 20, None, None, 0, 0, None, None, None),
)
BLOCKS = (
    (BlockAction.SEGMENT_ALLOC, 1, 1 << 45, 2 << 20, 0),
    (BlockAction.ALLOC, 2, 1 << 45, 100, 0),
    (BlockAction.FREE_REQUESTED, 3, 1 << 45, 100, NONE),
)
"""Action, time, address, bytes and stack of a device's events in the second tick."""
PASSES = (
    Pass(0, PassKind.FORWARD, 0, 3, 5, LINE, 7, PassFlag.GRAPH | PassFlag.CHAINED, 1 << 40),
    Pass(1, PassKind.BACKWARD, 1, 6, 9, FORWARD_LINE, None, PassFlag.ANOMALY, None, 0, (0,)),
    Pass(2, PassKind.ZERO_GRAD, 1, 10, 11, None, 4, PassFlag.SET_TO_NONE),
)
PARAMETERS = (
    ParameterProfile(
        0,
        (
            ParameterShare(7, MODULE, 4, True, 2, 1 << 33, 1 << 32, True, True, False),
            ParameterShare(7, MODULE, None, False, 1, 12, 0, False, False, True),
        ),
    ),
)
LAST_USES = {0: 4, 1: 1 << 50}
LAST_USES_OF = {0: (0, 3), 1: (1, 1 << 50, 0, 4)}
"""Tick -> what it says of last uses; what a later tick says of a storage counts."""
SEGMENT = (1 << 44, 2 << 20, 0, 0, 0, 0, 0, 1 << 44, 512, 100, BlockState.ACTIVE_ALLOCATED, NONE)
"""What the device held when that tick began, the device itself left out."""


def packed_births(writer: RecordingWriter, births: tuple[Birth, ...]) -> array[int]:
    rows = array("q")
    for b in births:
        rows.extend(
            (
                b.storage,
                b.time_ns,
                b.tick,
                b.phase,
                b.nbytes,
                writer.name_id(b.dtype),
                writer.name_id(b.device),
                writer.name_id(b.op),
                NONE if b.location is None else writer.location_id(b.location),
                NONE if b.forward_location is None else writer.location_id(b.forward_location),
                NONE if b.module is None else writer.module_id(b.module),
                NONE if b.address is None else b.address,
            )
        )
    return rows


def packed_blocks(writer: RecordingWriter) -> array[int]:
    device = writer.name_id("cuda:0")
    frames, line = (writer.location_id(FORWARD_LINE), writer.location_id(LINE)), writer.location_id(LINE)
    writer.stack_id(frames, line)
    writer.stack_id(frames, line, module=writer.module_id(MODULE), forward_location=frames[0])
    writer.write_segments(1, array("q", (device, *SEGMENT)))
    return array("q", [value for a, t, p, n, s in BLOCKS for value in (device, a, t, p, n, 0, s)])


def packed_passes(writer: RecordingWriter, tick: int) -> tuple[array[int], array[int]]:
    rows, uses = array("q"), array("q")
    for p in (item for item in PASSES if item.tick == tick):
        line = NONE if p.location is None else writer.location_id(p.location)
        optional = [NONE if value is None else value for value in (p.subject, p.saved_bytes, p.gradients)]
        rows.extend((p.id, p.kind, p.start_ns, p.end_ns, line, optional[0], p.flags, *optional[1:]))
        uses.extend(value for used in p.uses for value in (p.id, used))
    return rows, uses


def write_all(
    path: Path, *, finish: bool = True, on_failure: Callable[[str], None] = lambda message: None
) -> RecordingWriter:
    """Write one event of every type; events of a tick go with that tick."""
    writer = RecordingWriter(path, RUN, on_failure=on_failure)
    for tick in TICKS:
        births = packed_births(writer, tuple(b for b in BIRTHS if b.tick == tick.index))
        deaths = array("q", [value for death in DEATHS if death.tick == tick.index for value in death])
        roles = [role for role in ROLES if role.storage == tick.index]
        states = [state for state in STATES if state.tick == tick.index]
        passes, uses = packed_passes(writer, tick.index), array("q", LAST_USES_OF.get(tick.index, ()))
        if tick.index == 1:
            for profile in PARAMETERS:
                writer.write_parameters(profile)
        writer.write_tick(tick, births, deaths, roles, states=states, passes=passes, last_uses=uses)
        if tick.index == 1:
            writer.write_blocks([(tick.index, packed_blocks(writer).tobytes())])
    for oom in OOMS:
        writer.write_oom(oom)
    writer.write_census(CENSUS)
    if finish:
        writer.finish(RUN)
    return writer
