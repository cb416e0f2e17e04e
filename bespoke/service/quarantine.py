"""Quarantine: which agents of a campaign are not to be trusted, by the sentinels that all of them measure.

Agents of one profile measure the same device model, so their sentinels must agree. An agent's value of
a sentinel is compared with the *reference*: the median over the agents of each agent's own median (of
two, the lower one, since other work on a device makes runs slower and never faster). So every agent
has one voice, however much it reports, and a campaign with one agent has nothing to compare.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, median_low

__all__ = ["REFUSALS_IN_A_ROW", "SENTINELS_IN_A_ROW", "SENTINEL_SHARE", "SentinelResult", "failing"]

SENTINEL_SHARE = 0.25
"""A sentinel fails where it is off its reference by more than this share. Repeats of a healthy board
stay within a tenth; a board that throttles, or shares its cores, is off by a third and more."""

SENTINELS_IN_A_ROW = 3
"""So many failing sentinels in a row, each in another place of the round, are no accident."""

REFUSALS_IN_A_ROW = 3
"""So many reports in a row that are refused as absurd quarantine an agent, alone or not."""


@dataclass(frozen=True)
class SentinelResult:
    """What an agent measured of a sentinel: the low quantile of its samples."""

    entry_id: str
    agent: str
    low_ms: float


def failing(results: Sequence[SentinelResult]) -> Mapping[str, str]:
    """The agents whose last sentinels failed, each with the reason in words.

    Args:
        results: Of one campaign, in the order in which they came.
    """
    references = _references(results)
    if not references:
        return {}
    ratios: dict[str, list[float]] = defaultdict(list)
    for result in results:
        if result.entry_id in references:
            ratios[result.agent].append(result.low_ms / references[result.entry_id])
    reasons = {}
    for agent, all_of_them in ratios.items():
        last = all_of_them[-SENTINELS_IN_A_ROW:]
        if len(last) == SENTINELS_IN_A_ROW and all(abs(ratio - 1) > SENTINEL_SHARE for ratio in last):
            told = ", ".join(f"{ratio:.2f}" for ratio in last)
            reasons[agent] = (
                f"its last {SENTINELS_IN_A_ROW} sentinels took {told} times what the other agents measured "
                f"(more than {SENTINEL_SHARE:.0%} off)"
            )
    return reasons


def _references(results: Sequence[SentinelResult]) -> dict[str, float]:
    """By sentinel, where at least two agents have measured it."""
    by_sentinel: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        by_sentinel[result.entry_id][result.agent].append(result.low_ms)
    return {
        entry_id: median_low([median(values) for values in by_agent.values()])
        for entry_id, by_agent in by_sentinel.items()
        if len(by_agent) > 1
    }
