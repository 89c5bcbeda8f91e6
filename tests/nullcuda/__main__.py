"""`python -m tests.nullcuda COMMAND...`: run a command with the null CUDA device.

The environment variables of `nullcuda.c` apply; the Python that runs this must have the CUDA build of torch.
"""

from __future__ import annotations

import os
import sys

from tests.nullcuda.build import NullCudaUnavailableError, build, environment


def main() -> None:
    command = sys.argv[1:]
    if not command or command[0].startswith("-"):
        sys.exit(__doc__)
    try:
        libraries = build()
    except NullCudaUnavailableError as error:
        sys.exit(f"nullcuda: {error}")
    env = environment(libraries, devices=int(os.environ.get("NULLCUDA_DEVICES") or 1))
    try:
        os.execvpe(command[0], command, env)
    except OSError as error:
        sys.exit(f"nullcuda: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
