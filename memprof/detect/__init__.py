"""Rules: evidence in, findings out. A new rule joins the tuple below and has its page in its docstring."""

from __future__ import annotations

import warnings
from dataclasses import replace

from memprof.detect.allocator import AllocatorRetries, CacheEmptiedEveryIteration, ReservedFarAboveAllocated
from memprof.detect.anomaly_mode import AnomalyModeOn
from memprof.detect.caches import CacheKeyedByTensors
from memprof.detect.callbacks import DatasetKeepsTensors, HookStoresActivations, TensorStoredOnContext
from memprof.detect.containers import OutputsKeptWithGraph, TensorsKeptInContainer
from memprof.detect.copies import EqualContentKeptTwice
from memprof.detect.cycles import TensorsInReferenceCycle
from memprof.detect.devices import MemoryOnForeignDevice
from memprof.detect.discarded_gradients import GeneratorGraphInDiscriminatorStep
from memprof.detect.finding import Finding, Skipped
from memprof.detect.frozen import FrozenBackboneWithAutograd
from memprof.detect.gradients import GradientsKeptTooLong, ParametersUnused
from memprof.detect.graphs import GraphGrowsAcrossIterations, HiddenStateCarriedWithGraph
from memprof.detect.joined_outputs import OutputsConcatenatedOnDevice
from memprof.detect.kept_graphs import GradientsKeptWithGraph, GraphRetainedWithoutNeed
from memprof.detect.last_uses import TensorOutlivesLastUse
from memprof.detect.loaded_checkpoints import CheckpointKeptAfterLoading
from memprof.detect.oom import OutOfMemoryRaised
from memprof.detect.optimizer_temporaries import OptimizerTemporariesAtPeak
from memprof.detect.padding import PaddingWaste
from memprof.detect.parallel import ModelSplitUnevenly, OutputsGatheredOnOneDevice
from memprof.detect.placement import DeviceMismatch, ParametersHiddenInContainer
from memprof.detect.pools import PinnedMemoryGrows, PrivatePoolsGrow
from memprof.detect.populations import ModulesGrow, OptimizerGrows
from memprof.detect.precedence import without_explained
from memprof.detect.precision import FullPrecisionOutsideAutocast
from memprof.detect.pressure import ActivationsDominatePeak, GradientsDominatePeak, OptimizerStateDominatesPeak
from memprof.detect.recurrence import LongBackpropThroughTime
from memprof.detect.rule import Rule
from memprof.detect.shapes import ShapeMismatch
from memprof.detect.single_tensor import SingleTensorDominatesPeak
from memprof.detect.threads import TensorsHeldByThread
from memprof.detect.tracebacks import TensorsHeldByTraceback
from memprof.detect.waste import EvaluationWithAutograd, PreviousIterationAlive
from memprof.detect.weights import StateDictCopiesPileUp, WeightsUpdatedWithGraph
from memprof.model.memory import MemoryModel, Source
from memprof.model.simulated import source_of

RULES: tuple[type[Rule], ...] = (
    GraphGrowsAcrossIterations,
    OutputsKeptWithGraph,
    TensorsKeptInContainer,
    HiddenStateCarriedWithGraph,
    GraphRetainedWithoutNeed,
    GradientsKeptWithGraph,
    HookStoresActivations,
    TensorStoredOnContext,
    TensorsInReferenceCycle,
    TensorsHeldByTraceback,
    CacheKeyedByTensors,
    WeightsUpdatedWithGraph,
    StateDictCopiesPileUp,
    OptimizerGrows,
    ModulesGrow,
    TensorsHeldByThread,
    DatasetKeepsTensors,
    EvaluationWithAutograd,
    PreviousIterationAlive,
    FrozenBackboneWithAutograd,
    GeneratorGraphInDiscriminatorStep,
    OutputsConcatenatedOnDevice,
    LongBackpropThroughTime,
    GradientsKeptTooLong,
    AnomalyModeOn,
    CheckpointKeptAfterLoading,
    FullPrecisionOutsideAutocast,
    PaddingWaste,
    ParametersUnused,
    OptimizerTemporariesAtPeak,
    TensorOutlivesLastUse,
    EqualContentKeptTwice,
    ActivationsDominatePeak,
    OptimizerStateDominatesPeak,
    GradientsDominatePeak,
    SingleTensorDominatesPeak,
    ReservedFarAboveAllocated,
    CacheEmptiedEveryIteration,
    AllocatorRetries,
    PinnedMemoryGrows,
    PrivatePoolsGrow,
    MemoryOnForeignDevice,
    OutputsGatheredOnOneDevice,
    ModelSplitUnevenly,
    OutOfMemoryRaised,
    ShapeMismatch,
    ParametersHiddenInContainer,
    DeviceMismatch,
)

_NOT_WATCHED = "no storage was watched; record with --level auto or tensors"

_NO_CENSUS = "level blocks does not look for who holds a tensor; record with --level auto or tensors"

_SNAPSHOT = "a snapshot shows no iterations; record the run with `memprof analyze`"


def run_rules(model: MemoryModel) -> tuple[list[Finding], list[Skipped]]:
    """Ask every rule.

    Args:
        model: The run.

    Returns:
        Findings, most severe first and then by bytes, and what rules could not tell. A rule that fails warns, and is
        among the latter.
    """
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    for rule in RULES:
        if model.snapshot and not rule.on_snapshots:
            skipped.append(Skipped(rule.code, _SNAPSHOT))
            continue
        try:
            for answer in rule().check(model):
                if isinstance(answer, Finding):
                    findings.append(_labelled(model, answer))
                else:
                    skipped.append(answer)
        except Exception as error:  # what the other rules say is worth no less
            failed = f"the rule met a problem of its own: {type(error).__name__}: {error}"
            warnings.warn(f"memprof, {rule.code}: {failed}; please report it", RuntimeWarning, stacklevel=2)
            skipped.append(Skipped(rule.code, failed))
    if model.snapshot:
        pass
    elif not model.storages:
        skipped.extend(Skipped(rule.code, _NOT_WATCHED) for rule in RULES if rule.code.startswith("MP1"))
    elif model.run.level == "blocks" and not model.censuses:
        skipped.extend(Skipped(rule.code, _NO_CENSUS) for rule in RULES if rule.code.startswith("MP1"))
    findings = without_explained(model, findings)
    findings.sort(key=lambda item: (-item.severity.rank, -(item.bytes or 0), item.code))
    return findings, list(dict.fromkeys(skipped))


def _labelled(model: MemoryModel, finding: Finding) -> Finding:
    """A rule calls measured what the recording says; of a simulated GPU that is simulated."""
    if finding.source is not Source.MEASURED:
        return finding
    return replace(finding, source=source_of(model, finding.device))


def rule_of(code: str) -> type[Rule] | None:
    """The rule with a code (`MP101`) or a name (`graph-grows-across-iterations`), or None."""
    wanted = code.strip().lower()
    return next((rule for rule in RULES if wanted in (rule.code.lower(), rule.name())), None)


__all__ = ["RULES", "Rule", "rule_of", "run_rules"]
