"""Who a process on a GPU is, as far as this process may know."""

from __future__ import annotations

import enum
import os
import sys

_FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""What `/proc/self/ns/pid` is outside containers.

Source:
    `PROC_PID_INIT_INO`, include/linux/proc_ns.h, Linux 6.1.
"""


class ProcessState(str, enum.Enum):
    """Whether a process that the driver lists is alive."""

    RUNNING = "running"
    ZOMBIE = "zombie"
    """It has ended, and its parent has not asked for its exit status."""
    GONE = "gone"
    """No such process."""
    NOT_VISIBLE = "not visible"
    """No such process in this container; the driver counts processes of the whole machine."""


def describe_process(pid: int) -> tuple[str | None, str | None, ProcessState]:
    """Look a process up; one that is foreign or vanishes meanwhile is described as far as it can be.

    Args:
        pid: Process id, as the driver gives it.

    Returns:
        User, command line and state. User and command are None where they may not be known.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        state = ProcessState.ZOMBIE if process.status() == psutil.STATUS_ZOMBIE else ProcessState.RUNNING
    except psutil.NoSuchProcess:
        return None, None, _absent(pid)
    except (psutil.Error, OSError, ValueError, OverflowError):
        return None, None, ProcessState.RUNNING
    user = command = None
    try:
        user = process.username()
    except (psutil.Error, OSError, KeyError):
        pass
    try:
        words = [] if state is ProcessState.ZOMBIE else process.cmdline()
        command = " ".join(words).strip() or process.name() or None
    except (psutil.Error, OSError):
        pass
    return user, command, state


def _absent(pid: int) -> ProcessState:
    if os.name == "posix":
        try:
            os.kill(pid, 0)  # signal 0 asks and sends nothing
        except ProcessLookupError:
            pass
        except (OSError, OverflowError):
            return ProcessState.RUNNING  # it is there, and /proc hides it (hidepid)
        else:
            return ProcessState.RUNNING
    return ProcessState.GONE if sees_all_processes() else ProcessState.NOT_VISIBLE


def sees_all_processes() -> bool:
    """Whether the process ids of this process are those of the driver: not so inside most containers."""
    if sys.platform != "linux":
        return True
    try:
        return os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE
    except OSError:
        return False
