"""Training scripts with known memory problems, and what measures a tool against them."""
