"""pymoo on the problems of the benchmarks: a rival with the same evaluations, in whole populations.

It gets what helps it: a population is priced and predicted as one array, genomes are canonical and
never twice in a population, and what it evaluated is remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.search import Problem
from bespoke.supernet.architecture import Genomes, canonical, cardinalities

Objectives = Callable[[Genomes], NDArray[np.float64]]
"""From genomes (N, G) to what is minimised, (N, M)."""

Excess = Callable[[Genomes], NDArray[np.float64]]
"""From genomes (N, G) to what must not be above 0, (N, K)."""


def run(
    problem: Problem,
    objectives: Objectives,
    count: int,
    evaluations: int,
    seed: int,
    population: int = 100,
    excess: Excess | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[tuple[int, float]]]:
    """Run NSGA-II, or for one objective the genetic algorithm.

    Args:
        problem: Its space.
        objectives: What is minimised.
        count: How many objectives there are.
        evaluations: How many genomes are evaluated, in whole populations.
        seed: Of everything random.
        population: Genomes a generation.
        excess: Constraints, if any.

    Returns:
        Objectives of the last population (P, M), of everything that was evaluated within the
        constraints (N, M), and after each generation the evaluations so far with the best first
        objective within the constraints.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.core.repair import Repair
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    sizes = cardinalities(problem.space)
    limits = excess(np.zeros((1, len(sizes)), np.int16)).shape[1] if excess else 0
    seen: list[NDArray[np.float64]] = []
    way: list[tuple[int, float]] = []

    class Whole(PymooProblem):  # type: ignore[misc]
        def _evaluate(self, x: NDArray[np.int64], out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            genomes = canonical(problem.space, x.astype(np.int16))
            out["F"] = objectives(genomes)
            inside = np.ones(len(genomes), np.bool_)
            if excess:
                out["G"] = excess(genomes)
                inside = (out["G"] <= 0).all(axis=1)
            seen.append(out["F"][inside])
            made = (way[-1][0] if way else 0) + len(genomes)
            before = way[-1][1] if way else np.inf
            way.append((made, min(before, float(seen[-1][:, 0].min(initial=np.inf)))))

    class Canonical(Repair):  # type: ignore[misc]
        def _do(self, _: Any, x: NDArray[np.float64], **kwargs: Any) -> NDArray[np.int64]:
            return canonical(problem.space, np.around(x).astype(np.int16)).astype(np.int64)

    # The operators for integers that pymoo's own documentation proposes.
    operators = {
        "sampling": IntegerRandomSampling(),
        "crossover": SBX(prob=1.0, eta=3.0, vtype=float, repair=Canonical()),
        "mutation": PM(prob=1.0, eta=3.0, vtype=float, repair=Canonical()),
        "repair": Canonical(),
        "eliminate_duplicates": True,
        "pop_size": population,
    }
    whole = Whole(n_var=len(sizes), n_obj=count, n_ieq_constr=limits, xl=0, xu=sizes - 1, vtype=int)
    algorithm = GA(**operators) if count == 1 else NSGA2(**operators)
    done = minimize(whole, algorithm, ("n_eval", evaluations), seed=seed, verbose=False)
    return np.atleast_2d(done.pop.get("F")), np.concatenate(seen), way
