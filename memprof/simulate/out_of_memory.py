"""The error of a modelled device that is full."""

from __future__ import annotations

from memprof._errors import MemprofError
from memprof.units import format_bytes


class SimulatedOutOfMemory(MemprofError):
    """The modelled device has no memory for a request.

    Args:
        requested_bytes: Size asked for, in bytes.
        free_bytes: What the driver had left.
        total_bytes: Memory of the device.
        limit_bytes: What the process may reserve, or None where it may take all.
        allocated_bytes: In allocated blocks.
        reserved_bytes: Obtained from the driver.
    """

    def __init__(
        self,
        *,
        requested_bytes: int,
        free_bytes: int,
        total_bytes: int,
        limit_bytes: int | None,
        allocated_bytes: int,
        reserved_bytes: int,
    ) -> None:
        self.requested_bytes = requested_bytes
        self.free_bytes = free_bytes
        self.total_bytes = total_bytes
        self.limit_bytes = limit_bytes
        self.allocated_bytes = allocated_bytes
        self.reserved_bytes = reserved_bytes
        allowed = "" if limit_bytes is None else f" of which the process may reserve {format_bytes(limit_bytes)},"
        super().__init__(
            f"the simulated device is out of memory: {format_bytes(requested_bytes)} were asked for; of its "
            f"{format_bytes(total_bytes)},{allowed} {format_bytes(free_bytes)} are free, "
            f"{format_bytes(reserved_bytes)} are reserved and {format_bytes(allocated_bytes)} of those allocated"
        )
