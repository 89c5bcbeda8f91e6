"""Rules on long runs: the work for an iteration does not grow with the number of iterations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from memprof.detect import RULES
from memprof.detect.rule import Rule
from memprof.record.events import Phase, Role
from tests.unit.detect.story import MIB, Story, share


class _Counted(tuple):  # type: ignore[type-arg]
    """Knows how often somebody went through it."""

    passes = 0

    def __iter__(self) -> Iterator[object]:
        self.passes += 1
        return super().__iter__()


def _passes_over_a_run(rule: type[Rule], iterations: int) -> int:
    """How often a rule goes through the passes, the ticks and the iterations of a run."""
    story = Story()
    recording = story.recording
    recording.sample(Phase.OTHER, ends=False)
    weight = recording.birth(MIB, role=Role.PARAMETER)
    kept = recording.birth(8)
    for _ in range(iterations):
        gradients = story.shares(share(0, optimizer=10, gradient=MIB, changed=True))
        forward, saved = story.forward(0, 10)
        recording.death(kept)
        story.backward(forward, gradients=gradients, frees=tuple(saved))
        gradient = recording.birth(MIB, role=Role.GRADIENT)
        temporary = recording.birth(MIB, op="aten._foreach_sqrt")
        story.step(10)
        recording.used_at[weight] = recording.now
        recording.death(temporary, gradient)
        kept = recording.birth(2 * MIB)
        story.zero(10, freed=False)
        story.end()
    model = story.model()
    counted = [_Counted(model.passes), _Counted(model.ticks), _Counted(model.iterations)]
    list(rule().check(replace(model, passes=counted[0], ticks=counted[1], iterations=counted[2])))
    return sum(item.passes for item in counted)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_does_not_go_through_the_run_for_every_iteration(rule: type[Rule]) -> None:
    assert _passes_over_a_run(rule, 24) == _passes_over_a_run(rule, 12)
