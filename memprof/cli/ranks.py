"""Processes of one job: where a launcher started several, each writes files of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
"""What tells a process its number and how many there are.

Source:
    torch/distributed/run.py of torch 2.13.0 ("Environment Variables"); `mpirun` of Open MPI; `srun` of Slurm.
"""


def rank_of_job(environ: Mapping[str, str] = os.environ) -> int | None:
    """The number of this process among those that a launcher started.

    Args:
        environ: Where launchers say so.

    Returns:
        None where there is one process, or no launcher is known.
    """
    for rank, size in _LAUNCHERS:
        number, of = environ.get(rank, ""), environ.get(size, "")
        if number.isdecimal() and of.isdecimal() and int(of) > 1:
            return int(number)
    return None


def of_rank(path: str | os.PathLike[str], rank: int | None) -> Path:
    """The name of a file that every rank writes.

    Args:
        path: The name that all ranks were given.
        rank: Of this process; None is the only one.

    Returns:
        `train.rank3.memprof` for `train.memprof`; the name itself without a rank.
    """
    target = Path(path)
    return target if rank is None else target.with_name(f"{target.stem}.rank{rank}{target.suffix}")
