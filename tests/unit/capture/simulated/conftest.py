"""Makes sure that autograd's engine knows a simulated GPU, before a test runs the first backward of the process."""

from __future__ import annotations

import memprof

with memprof.simulate_gpu("8GiB"):
    pass
