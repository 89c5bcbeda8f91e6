"""What everybody writes by hand against running out of memory, done properly: try again with less at a time.

`retry` cuts a batch into parts that fit and keeps the gradient what it would have been; `find_batch_size` runs a
function again with half the batch size. Both let go of the failed attempt first, say what they did through the
logger `memprof.oom`, and put it into the report of the profiler that is recording, if one is.

Importing this package does not import torch.
"""

from __future__ import annotations

from memprof.oom.batch_size import SizedRun, find_batch_size
from memprof.oom.recovery import is_out_of_memory
from memprof.oom.retries import RetriedStep, retry

__all__ = ["RetriedStep", "SizedRun", "find_batch_size", "is_out_of_memory", "retry"]
