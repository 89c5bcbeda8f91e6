"""The model of the caching allocator does what the real one does, to the address."""

from __future__ import annotations

import pytest

from tests.cuda.allocator_fuzz import KINDS, fuzz

pytestmark = pytest.mark.cuda


def test_random_programs_under_various_settings(on_cuda):
    counts = on_cuda(fuzz, memory="1G", programs=len(KINDS), operations=150, seed=0)
    assert counts["programs"] == len(KINDS)
    assert counts["operations"] == 150 * len(KINDS)


def test_random_programs_while_settings_change(on_cuda):
    counts = on_cuda(fuzz, memory="1G", programs=4, operations=200, seed=10, toggle=True)
    assert counts["programs"] == 4


@pytest.mark.parametrize(
    "settings", ["per_process_memory_fraction:0.5,garbage_collection_threshold:0.4", "expandable_segments:True"]
)
def test_settings_of_the_environment(on_cuda, settings):
    counts = on_cuda(
        fuzz, memory="1G", env={"PYTORCH_ALLOC_CONF": settings}, programs=1, operations=300, seed=5, settings=settings
    )
    assert counts["operations"] == 300
