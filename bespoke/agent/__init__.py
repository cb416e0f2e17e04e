"""The device agent: leases work, measures it with the installed runtime, reports raw samples."""

from bespoke.agent.affinity import pinned
from bespoke.agent.fingerprint import device_profile, fingerprint
from bespoke.agent.loop import AgentEvent, AgentSettings, AgentSummary, run_agent
from bespoke.agent.measure import Measurement, measure
from bespoke.agent.runtimes import RUNTIMES, OnnxRuntime, Runtime, open_runtime

__all__ = [
    "RUNTIMES",
    "AgentEvent",
    "AgentSettings",
    "AgentSummary",
    "Measurement",
    "OnnxRuntime",
    "Runtime",
    "device_profile",
    "fingerprint",
    "measure",
    "open_runtime",
    "pinned",
    "run_agent",
]
