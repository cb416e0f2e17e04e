"""Tests. Each parallel runner takes one thread: with two each they would wait for one another."""

import os

# Before numpy and torch are imported, which read it then; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
