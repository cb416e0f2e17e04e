"""What the benchmarks of searches share: a predictor and latency tables in files, made into a problem."""

from __future__ import annotations

import argparse
from pathlib import Path

from bespoke.latency_tables import covered_space, read_table
from bespoke.predictors import read_predictor
from bespoke.search import Problem
from bespoke.supernet.spaces import space as make_space

SIDES = tuple(range(8, 513, 4))
"""Resolutions that a table is asked about; those that it covers are searched."""


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is searched."""
    parser.add_argument("--predictor", type=Path, required=True, help="predictor.json or acc_predictor.pth")
    parser.add_argument(
        "--table", type=Path, nargs="+", required=True, help="latency tables: files or folders"
    )
    parser.add_argument("--space", default="ofa-mobilenetv3-w1.2")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--resolutions", type=int, nargs="+", help="sides in pixels; else all covered")


def problem_of(given: argparse.Namespace) -> Problem:
    """The problem without limits that the files tell."""
    table = read_table(given.table)
    space = covered_space(table, make_space(given.space, given.resolutions or SIDES, given.classes))
    predictor, precision = read_predictor(given.predictor, space), table.profile.model_precision
    return Problem(space, predictor, (), table.pricer(space), precision=precision)
