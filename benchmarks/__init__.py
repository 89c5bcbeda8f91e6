"""What profiling costs: memprof and its peers against the bare loop, paired in one run."""
