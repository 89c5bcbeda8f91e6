"""Settings of the CUDA caching allocator, as `PYTORCH_ALLOC_CONF` writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from memprof._errors import UsageError

MIB = 1 << 20
UNLIMITED = (1 << 64) - 1
INTERVALS = 16
"""Entries of the table of divisions: one for each power of two from 1 MiB to 32 GiB."""
NO_DIVISIONS = (0,) * INTERVALS
DEFAULT_LARGE_SEGMENT_BYTES = 20 * MIB

Value = str | list[tuple[str, str]]
"""What is written after the colon: one word, or the pairs of a list."""


@dataclass(frozen=True, slots=True)
class AllocatorSettings:
    """What decides how the caching allocator divides memory.

    Source:
        `AcceleratorAllocatorConfig`, c10/core/AllocatorConfig.h, and `CUDAAllocatorConfig`, torch 2.14.1.
    """

    expandable_segments: bool = False
    max_split_bytes: int = UNLIMITED
    """Free blocks of this size and above are not split, and not given to smaller requests."""
    max_non_split_rounding_bytes: int = DEFAULT_LARGE_SEGMENT_BYTES
    """How much larger than the request a block that is not split may be; as `large_segment_bytes` if not named."""
    large_segment_bytes: int = DEFAULT_LARGE_SEGMENT_BYTES
    """Size of the segments that requests between 1 and 10 MiB share, and page of large expandable segments."""
    roundup_power2_divisions: tuple[int, ...] = NO_DIVISIONS
    """Steps between powers of two that requests are rounded to; entry `n` for requests from `2**n` MiB."""
    garbage_collection_threshold: float = 0.0
    """Part of the limit above which old free blocks are returned first; 0 never. Needs a memory fraction."""
    per_process_memory_fraction: float | None = None
    """Part of the device's memory the process may reserve; None: as much as there is."""
    backend: str = "native"
    """`native` or `cudaMallocAsync`; only the first is modelled."""

    @classmethod
    def parse(cls, text: str, *, torch_version: str | None = None) -> AllocatorSettings:
        """Read a value of `PYTORCH_ALLOC_CONF`.

        Args:
            text: For example `expandable_segments:True,max_split_size_mb:128`.
            torch_version: Accept only keys that this version knows, for example `2.9.1`; None accepts all.

        Returns:
            The settings; what is not named has its default.

        Raises:
            UsageError: A key is not known, or a value is not accepted by PyTorch.
        """
        tokens = [token for token in re.split(r"([,:\[\]])", re.sub(r"\s", "", text)) if token]
        known = known_keys(torch_version)
        values: dict[str, Value] = {}
        at = 0
        while at < len(tokens):
            key = tokens[at]
            if key not in known:
                of = f" of torch {torch_version}" if key in _KEYS and torch_version else ""
                raise UsageError(f"{key!r} is not an allocator setting{of}; known settings: {', '.join(sorted(known))}")
            if tokens[at + 1 : at + 2] != [":"] or at + 2 >= len(tokens):
                raise UsageError(f"{key} needs a value: write {key}:<{_KEYS[key].accepted}>")
            if tokens[at + 2] == "[":
                values[key], at = _list(key, tokens, at + 3)
            else:
                values[key], at = tokens[at + 2], at + 3
            if at < len(tokens):
                if tokens[at] != ",":
                    raise UsageError(f"{key}: expected a comma after its value, found {tokens[at]!r}")
                at += 1
        settings = cls()
        # The size of large segments bounds other values wherever it is written.
        for key in sorted(values, key=lambda key: key != "large_segment_size_mb"):
            settings = _KEYS[key].read(settings, key, values[key])
        if "max_non_split_rounding_mb" not in values:
            settings = replace(settings, max_non_split_rounding_bytes=settings.large_segment_bytes)
        return settings

    @classmethod
    def from_snapshot(cls, found: Mapping[str, object]) -> AllocatorSettings:
        """Read `allocator_settings` of a memory snapshot; what it does not say has its default.

        Args:
            found: The mapping; the text it was configured with counts only for what it does not list by itself.

        Returns:
            The settings. Text that cannot be read is passed over.
        """
        settings = cls()
        text = found.get("PYTORCH_CUDA_ALLOC_CONF")
        if isinstance(text, str):
            try:
                settings = cls.parse(text)
            except UsageError:
                pass
        limit = found.get("max_split_size")
        if isinstance(limit, int):
            settings = replace(settings, max_split_bytes=limit if limit > 0 else UNLIMITED)
        expandable = found.get("expandable_segments")
        if isinstance(expandable, bool):
            settings = replace(settings, expandable_segments=expandable)
        threshold = found.get("garbage_collection_threshold")
        if isinstance(threshold, float):
            settings = replace(settings, garbage_collection_threshold=threshold)
        table = found.get("roundup_power2_divisions")
        if isinstance(table, Mapping):
            divisions = tuple(int(table.get(str(1 << n), 0)) for n in range(INTERVALS))
            settings = replace(settings, roundup_power2_divisions=divisions)
        return settings


def _list(key: str, tokens: list[str], at: int) -> tuple[list[tuple[str, str]], int]:
    """Read `interval:value` pairs up to the closing bracket; gives them and the place after it."""
    pairs = []
    while at < len(tokens) and tokens[at] != "]":
        if tokens[at + 1 : at + 2] != [":"] or at + 2 >= len(tokens):
            raise UsageError(f"{key}: each entry of the list is written <MiB>:<divisions>, not {tokens[at]!r}")
        pairs.append((tokens[at], tokens[at + 2]))
        at += 3
        if tokens[at : at + 1] == [","]:
            at += 1
    if at >= len(tokens):
        raise UsageError(f"{key}: the list has no closing bracket")
    return pairs, at + 1


def _wrong(key: str, value: Value) -> UsageError:
    shown = value if isinstance(value, str) else "[" + ",".join(f"{a}:{b}" for a, b in value) + "]"
    return UsageError(f"{key}: {shown!r} is not accepted; write {_KEYS[key].accepted}")


def _integer(key: str, value: Value) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]+", value):
        raise _wrong(key, value)
    return int(value)


def _number(key: str, value: Value) -> float:
    try:
        return float(value if isinstance(value, str) else "")
    except ValueError:
        raise _wrong(key, value) from None


def _flag(key: str, value: Value) -> bool:
    if value not in ("True", "False"):
        raise _wrong(key, value)
    return value == "True"


def _expandable(settings: AllocatorSettings, key: str, value: Value) -> AllocatorSettings:
    return replace(settings, expandable_segments=_flag(key, value))


def _max_split(settings: AllocatorSettings, key: str, value: Value) -> AllocatorSettings:
    nbytes = _integer(key, value) * MIB
    if nbytes < settings.large_segment_bytes:
        raise _wrong(key, value)
    return replace(settings, max_split_bytes=min(nbytes, UNLIMITED // MIB * MIB))


def _max_rounding(settings: AllocatorSettings, key: str, value: Value) -> AllocatorSettings:
    nbytes = _integer(key, value) * MIB
    if nbytes < settings.large_segment_bytes:
        raise _wrong(key, value)
    return replace(settings, max_non_split_rounding_bytes=min(nbytes, UNLIMITED // MIB * MIB))


def _large_segment(settings: AllocatorSettings, key: str, value: Value) -> AllocatorSettings:
    nbytes = _integer(key, value) * MIB
    if nbytes <= 10 * MIB:
        raise _wrong(key, value)
    return replace(settings, large_segment_bytes=nbytes)


def _threshold(settings: AllocatorSettings, key: str, value: Value) -> AllocatorSettings:
    number = _number(key, value)
    if not 0 < number < 1:
        raise _wrong(key, value)
    return replace(settings, garbage_collection_threshold=number)


def _fraction(settings: AllocatorSettings, key: str, value: Value) -> AllocatorSettings:
    number = _number(key, value)
    if not 0 <= number <= 1:
        raise _wrong(key, value)
    return replace(settings, per_process_memory_fraction=number)


def _divisions(settings: AllocatorSettings, key: str, value: Value) -> AllocatorSettings:
    if isinstance(value, str):
        number = _integer(key, value)
        if number.bit_count() != 1:
            raise _wrong(key, value)
        return replace(settings, roundup_power2_divisions=(number,) * INTERVALS)
    table = list(NO_DIVISIONS)
    last: int | None = None
    for interval, text in value:
        number = _integer(key, text) if text.isdigit() else -1
        if number < 0 or number.bit_count() > 1:
            raise _wrong(key, value)
        if interval == ">":
            start = 0 if last is None else last
            table[start + 1 :] = [number] * (INTERVALS - start - 1)
            continue
        if not interval.isdigit() or int(interval).bit_count() != 1:
            raise _wrong(key, value)
        index = min(int(interval).bit_length() - 1, INTERVALS - 1)
        if last is None:
            table[:index] = [number] * index
        table[index] = number
        last = index
    return replace(settings, roundup_power2_divisions=tuple(table))


def _backend(settings: AllocatorSettings, key: str, value: Value) -> AllocatorSettings:
    if not isinstance(value, str) or value not in ("native", "cudaMallocAsync"):
        raise _wrong(key, value)
    return replace(settings, backend=value)


def _any_flag(settings: AllocatorSettings, key: str, value: Value) -> AllocatorSettings:
    _flag(key, value)
    return settings


def _any_integer(settings: AllocatorSettings, key: str, value: Value) -> AllocatorSettings:
    _integer(key, value)
    return settings


@dataclass(frozen=True, slots=True)
class _Key:
    accepted: str
    read: Callable[[AllocatorSettings, str, Any], AllocatorSettings]
    since: tuple[int, int] = (2, 2)
    """First version of torch that has the key, or the oldest memprof works with."""


_FLAG = "True or False"
_KEYS = {
    "expandable_segments": _Key(_FLAG, _expandable),
    "max_split_size_mb": _Key("a whole number of MiB, at least the large segment size (20)", _max_split),
    "max_non_split_rounding_mb": _Key(
        "a whole number of MiB, at least the large segment size (20)", _max_rounding, (2, 4)
    ),
    "large_segment_size_mb": _Key("a whole number of MiB above 10", _large_segment, (2, 11)),
    "roundup_power2_divisions": _Key(
        "a power of two, or a list as in [64:8,256:4,>:1] whose sizes and divisions are powers of two", _divisions
    ),
    "garbage_collection_threshold": _Key("a number between 0 and 1, both excluded", _threshold),
    "per_process_memory_fraction": _Key("a number from 0 to 1", _fraction, (2, 10)),
    "backend": _Key("native or cudaMallocAsync", _backend),
    "release_lock_on_cudamalloc": _Key(_FLAG, _any_flag),
    "release_lock_on_hipmalloc": _Key(_FLAG, _any_flag),
    "graph_capture_record_stream_reuse": _Key(_FLAG, _any_flag, (2, 9)),
    "throw_on_cudamalloc_oom": _Key(_FLAG, _any_flag, (2, 12)),
    "pinned_use_cuda_host_register": _Key(_FLAG, _any_flag),
    "pinned_use_hip_host_register": _Key(_FLAG, _any_flag),
    "pinned_use_background_threads": _Key(_FLAG, _any_flag, (2, 6)),
    "pinned_free_catch_all": _Key(_FLAG, _any_flag, (2, 10)),
    "pinned_num_register_threads": _Key("a power of two up to 128", _any_integer),
    "pinned_reserve_segment_size_mb": _Key("a whole number of MiB", _any_integer, (2, 9)),
    "pinned_max_round_threshold_mb": _Key("a whole number of MiB", _any_integer, (2, 13)),
    "pinned_max_cached_size_mb": _Key("a whole number of MiB", _any_integer, (2, 13)),
}
"""Versions up to 2.10 were worked out from the dates of pull requests, except `large_segment_size_mb`."""


def known_keys(torch_version: str | None = None) -> frozenset[str]:
    """Names of the settings that a version of torch reads.

    Args:
        torch_version: For example `2.9.1`; None for every key of torch 2.14.

    Returns:
        The names, as they are written before the colon.
    """
    if torch_version is None:
        return frozenset(_KEYS)
    match = re.match(r"([0-9]+)\.([0-9]+)", torch_version)
    if match is None:
        raise UsageError(f"{torch_version!r} is not a version of torch; write for example 2.9.1")
    version = (int(match.group(1)), int(match.group(2)))
    return frozenset(name for name, key in _KEYS.items() if key.since <= version)
