"""Watches a live process. The only package that imports torch."""
