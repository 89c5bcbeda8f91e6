"""Files of one process among several."""

from __future__ import annotations

from pathlib import Path

import pytest

from memprof.cli.ranks import of_rank, rank_of_job


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({}, None),
        ({"RANK": "3", "WORLD_SIZE": "8"}, 3),
        ({"RANK": "0", "WORLD_SIZE": "8"}, 0),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "3"}, None),
        ({"RANK": "third", "WORLD_SIZE": "8"}, None),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, 1),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6"}, 5),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "RANK": "1", "WORLD_SIZE": "2"}, 1),
    ],
)
def test_rank_is_known_where_a_launcher_started_several_processes(environ: dict[str, str], rank: int | None) -> None:
    assert rank_of_job(environ) == rank


def test_each_rank_has_a_file_of_its_own_beside_the_others() -> None:
    assert of_rank("out/train.memprof", 2) == Path("out/train.rank2.memprof")
    assert of_rank("pkg.train.memprof", 0) == Path("pkg.train.rank0.memprof")
    assert of_rank("out/train.memprof", None) == Path("out/train.memprof")
