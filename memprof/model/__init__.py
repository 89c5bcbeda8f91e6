"""What a recording means: lifetimes, categories, iterations, peaks and growth.

Start at `memprof.model.build.build`. This package file imports nothing, so that reading the plain
dataclasses of `memprof.model.memory` does not load numpy.
"""
