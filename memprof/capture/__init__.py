"""Watches a live process. Beside `oom`, the only package that imports torch."""
