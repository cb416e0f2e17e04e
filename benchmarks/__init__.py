"""Benchmarks: each prints measured numbers, for people or with ``--json``."""
