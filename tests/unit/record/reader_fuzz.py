"""Damages snapshots and recordings at random and reports on them: each gives a report or a `RecordingError`, nothing else.

By hand, from the root of the repository, as long as you like:

    python -X faulthandler -m tests.unit.record.reader_fuzz --seconds 300 --seed 1 [FILE ...]

FILEs are damaged too, snapshots or recordings. A file that gives anything else stays in the folder that is named, also where the process died
of it.
"""

from __future__ import annotations

import argparse
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import memprof
from memprof import RecordingError
from memprof.record.files import open_file
from memprof.report.json_report import JsonReporter
from memprof.report.terminal import TerminalReporter
from tests.unit.record import recordings
from tests.unit.record.snapshots import snapshot
from tests.unit.record.test_snapshot_unpickler import make_trace

MEMORY_BYTES = 3 << 30
SECONDS_EACH = 30

_SPECIAL = (0, 1, 0x7F, 0x80, 0x93, 0x94, 0x95, 0xFF, *b"(.0}])aeghjklqrstuKJMNXRcb")
_NUMBERS = (0, -1, 1, 511, 1 << 31, (1 << 62) - 1, 1 << 62, 1 << 63, 1 << 64, -(1 << 63), 1 << 100)
_VALUES: tuple[Any, ...] = (None, True, -1.5, float("nan"), "", "alloc", "\ud800", [], {}, (), [[]], {"frames": 7})


class TooLongError(BaseException):
    """A file takes longer than `SECONDS_EACH`; no `Exception`, so that nothing takes it for damage."""


def seeds(folder: Path) -> list[bytes]:
    """Small files of both kinds, sound ones."""
    chance = random.Random(0)
    found = [
        pickle.dumps(snapshot(device_traces=[make_trace(count, seed), make_trace(3, seed)]), protocol)
        for seed, (count, protocol) in enumerate([(5, 0), (20, 2), (60, 4), (300, 4), (1100, 5)])
    ]
    data = snapshot(host_traces=make_trace(30, 9), external_annotations=[])
    found.append(pickle.dumps(data, 4))
    path = folder / "seed.memprof"
    recordings.write_all(path)
    found.append(path.read_bytes())
    chance.shuffle(found)
    return found


def damage(data: bytes, chance: random.Random) -> bytes:
    """Change bytes: a few, a stretch, an opcode, the length."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        at = chance.randrange(len(changed))
        kind = chance.randrange(7)
        if kind == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at] = chance.choice(_SPECIAL)
        elif kind == 2:
            changed[at:at] = bytes(chance.choice(_SPECIAL) for _ in range(chance.randrange(1, 9)))
        elif kind == 3:
            del changed[at : at + chance.choice((1, 2, 8, 200))]
        elif kind == 4:
            length = chance.choice((4, 30, 400))
            source = chance.randrange(len(changed))
            changed[at : at + length] = changed[source : source + length]
        elif kind == 5:
            changed[at:at] = changed[at : at + chance.choice((8, 100, 3000))]
        elif chance.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def distort(value: Any, chance: random.Random) -> Any:
    """Change values of a snapshot that stays a sound pickle."""
    if chance.random() < 0.004:
        return chance.choice((*_NUMBERS, *_VALUES))
    if isinstance(value, dict):
        items = {key: distort(item, chance) for key, item in value.items() if chance.random() > 0.002}
        if chance.random() < 0.002:
            items[chance.choice(("addr", "size", 7, "frames", "state"))] = chance.choice((*_NUMBERS, *_VALUES))
        return items
    if isinstance(value, list):
        return [distort(item, chance) for item in value]
    return value


def judge(path: Path) -> str:
    """Report on a file; what came of it, in a word."""
    try:
        with open_file(path) as opened:
            diagnosis = memprof.diagnose(opened)
        JsonReporter().render(diagnosis)
        TerminalReporter().render(diagnosis)
    except RecordingError:
        return "error"
    return "report"


def fuzz(
    seconds: float,
    seed: int,
    files: list[Path],
    folder: Path,
    say: Callable[[str], None] = print,
    most: float = float("inf"),
) -> Counter[str]:
    """Damage and judge until the time is over, or so many files are done.

    Raises:
        BaseException: Whatever a file gave that is neither; the file is `folder`/current.
    """
    chance = random.Random(seed)
    sound = [*seeds(folder), *(file.read_bytes() for file in files)]
    plain = [pickle.loads(data) for data in sound if not data.startswith(b"SQLite")]  # noqa: S301 - our own, or the caller's
    counts: Counter[str] = Counter()
    path = folder / "current"
    limit = SECONDS_EACH if callable(signal.getsignal(signal.SIGALRM)) else 0  # without a handler it ends the process
    began = reported = time.monotonic()
    while (now := time.monotonic()) - began < seconds and counts.total() < most:
        if chance.random() < 0.3:
            try:
                data = pickle.dumps(distort(chance.choice(plain), chance), chance.choice((2, 4, 4, 5)))
            except (RecursionError, UnicodeEncodeError):
                continue
        else:
            data = damage(chance.choice(sound), chance)
        path.write_bytes(data)
        for extra in ("-wal", "-shm"):
            Path(f"{path}{extra}").unlink(missing_ok=True)
        signal.alarm(limit)
        counts[judge(path)] += 1
        signal.alarm(0)
        if now - reported > 60:
            reported = now
            say(f"{now - began:.0f} s: {counts.total()} files, {dict(counts)}")
    return counts


def main() -> int:
    """Fuzz by hand."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="further files to damage")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def too_long(*_: Any) -> None:
        raise TooLongError

    signal.signal(signal.SIGALRM, too_long)
    folder = Path(tempfile.mkdtemp(prefix="memprof-fuzz-"))
    print(f"seed {given.seed}, in {folder}", flush=True)
    try:
        counts = fuzz(given.seconds, given.seed, given.files, folder, lambda text: print(text, flush=True))
    except BaseException:
        traceback.print_exc()
        print(f"seed {given.seed}: {folder / 'current'} gives neither a report nor a RecordingError")
        return 1
    print(f"{counts.total()} files: {counts['report']} reports, {counts['error']} errors, nothing else")
    return 0


if __name__ == "__main__":
    sys.exit(main())
