"""A CUDA device that has memory but no processors; see README.md."""
