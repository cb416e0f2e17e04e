"""The device agent: leases work, measures it with the installed runtime, reports raw samples."""

from bespoke.agent.affinity import pinned
from bespoke.agent.bench import Bench, ChildBench
from bespoke.agent.conditions import Conditions, read_conditions
from bespoke.agent.fingerprint import device_profile, fingerprint
from bespoke.agent.loop import AgentEvent, AgentSettings, AgentSummary, run_agent
from bespoke.agent.measure import Measurement, measure
from bespoke.agent.preflight import Preflight, judge_here, preflight
from bespoke.agent.runtimes import RUNTIMES, OnnxRuntime, OpenVino, Runtime, open_runtime
from bespoke.agent.sentinels import SentinelHistory

__all__ = [
    "RUNTIMES",
    "AgentEvent",
    "AgentSettings",
    "AgentSummary",
    "Bench",
    "ChildBench",
    "Conditions",
    "Measurement",
    "OnnxRuntime",
    "OpenVino",
    "Preflight",
    "Runtime",
    "SentinelHistory",
    "device_profile",
    "fingerprint",
    "judge_here",
    "measure",
    "open_runtime",
    "pinned",
    "preflight",
    "read_conditions",
    "run_agent",
]
