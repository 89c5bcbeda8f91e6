"""Settings as `PYTORCH_ALLOC_CONF` writes them."""

from __future__ import annotations

import pytest

from memprof._errors import UsageError
from memprof.simulate.settings import UNLIMITED, AllocatorSettings, known_keys
from memprof.simulate.sizes import driver_size, round_size

MIB = 1 << 20


def test_what_is_not_named_has_its_default():
    settings = AllocatorSettings.parse("")
    assert settings == AllocatorSettings()
    assert settings.max_split_bytes == UNLIMITED
    assert settings.per_process_memory_fraction is None


def test_all_that_matters_is_read():
    settings = AllocatorSettings.parse(
        "expandable_segments:True, max_split_size_mb:128,max_non_split_rounding_mb:64,large_segment_size_mb:32,"
        "garbage_collection_threshold:0.8,per_process_memory_fraction:0.5,backend:native,pinned_num_register_threads:8"
    )
    assert settings == AllocatorSettings(
        expandable_segments=True,
        max_split_bytes=128 * MIB,
        max_non_split_rounding_bytes=64 * MIB,
        large_segment_bytes=32 * MIB,
        garbage_collection_threshold=0.8,
        per_process_memory_fraction=0.5,
    )


@pytest.mark.parametrize(
    ("text", "divisions"),
    [
        ("4", (4,) * 16),
        ("[1:4,4:8,16:2,64:16,>:1]", (4, 0, 8, 0, 2, 0, 16, 1, 1, 1, 1, 1, 1, 1, 1, 1)),
        ("[64:8]", (8,) * 7 + (0,) * 9),
        ("[256:2,64:8]", (2, 2, 2, 2, 2, 2, 8, 2, 2) + (0,) * 7),
        ("[>:4]", (0,) + (4,) * 15),
        ("[131072:4]", (4,) * 16),
        ("[64:0]", (0,) * 16),
    ],
)
def test_divisions_fill_the_table_as_torch_does(text, divisions):
    assert AllocatorSettings.parse(f"roundup_power2_divisions:{text}").roundup_power2_divisions == divisions


@pytest.mark.parametrize(
    "text",
    [
        "max_split_size_mb:19",
        "max_split_size_mb:abc",
        "max_split_size_mb",
        "max_split_size_mb:30:40",
        "max_split_size_mb:30,large_segment_size_mb:40",
        "max_non_split_rounding_mb:10",
        "large_segment_size_mb:10",
        "garbage_collection_threshold:0",
        "garbage_collection_threshold:1",
        "per_process_memory_fraction:1.5",
        "expandable_segments:true",
        "roundup_power2_divisions:3",
        "roundup_power2_divisions:[3:4]",
        "roundup_power2_divisions:[64:3]",
        "roundup_power2_divisions:[64:8",
        "roundup_power2_divisions:[64,8]",
        "backend:other",
    ],
)
def test_a_value_that_torch_does_not_take_is_refused_by_name(text):
    with pytest.raises(UsageError, match=text.split(":")[0]):
        AllocatorSettings.parse(text)


def test_an_unknown_key_is_refused_with_those_that_are_known():
    with pytest.raises(UsageError, match="'max_split' is not an allocator setting.*max_split_size_mb"):
        AllocatorSettings.parse("max_split:20")


def test_keys_depend_on_the_version_of_torch():
    assert "large_segment_size_mb" in known_keys("2.14.1+cu130")
    with pytest.raises(UsageError, match=r"of torch 2\.9"):
        AllocatorSettings.parse("large_segment_size_mb:40", torch_version="2.9.1")


def test_what_a_snapshot_says_counts_more_than_its_text():
    found = {
        "PYTORCH_CUDA_ALLOC_CONF": "large_segment_size_mb:64,expandable_segments:True",
        "max_split_size": -1,
        "expandable_segments": False,
        "garbage_collection_threshold": 0.0,
        "roundup_power2_divisions": {"1": 4, "64": 8},
    }
    settings = AllocatorSettings.from_snapshot(found)
    assert settings.large_segment_bytes == 64 * MIB
    assert not settings.expandable_segments
    assert settings.roundup_power2_divisions[0] == 4
    assert settings.roundup_power2_divisions[6] == 8
    assert AllocatorSettings.from_snapshot({}) == AllocatorSettings()
    assert AllocatorSettings.from_snapshot({"PYTORCH_CUDA_ALLOC_CONF": "nonsense"}) == AllocatorSettings()


@pytest.mark.parametrize(
    ("nbytes", "rounded"), [(1, 512), (512, 512), (513, 1024), (MIB + 1, MIB + 512), (10 * MIB, 10 * MIB)]
)
def test_requests_are_rounded_to_512_bytes(nbytes, rounded):
    assert round_size(nbytes, AllocatorSettings()) == rounded


@pytest.mark.parametrize(
    ("nbytes", "rounded"),
    [(1200 * MIB, 1280 * MIB), (1024 * MIB, 1024 * MIB), (1100, 1536), (2048, 2048), (3000, 3072)],
)
def test_divisions_round_to_parts_of_a_power_of_two(nbytes, rounded):
    assert round_size(nbytes, AllocatorSettings.parse("roundup_power2_divisions:4")) == rounded


@pytest.mark.parametrize(
    ("nbytes", "asked"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB, 12 * MIB),
    ],
)
def test_the_driver_is_asked_for_whole_segments(nbytes, asked):
    assert driver_size(nbytes, AllocatorSettings()) == asked


def test_rounding_without_a_split_goes_with_the_size_of_large_segments():
    assert AllocatorSettings.parse("large_segment_size_mb:40").max_non_split_rounding_bytes == 40 * MIB
