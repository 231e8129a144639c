"""One workflow, many settings, many machines. `python -m sweep --help`."""
