"""Performance, measured: each module runs as ``python -m benchmarks.NAME``."""
