"""Latency tables: what each op costs on a device, how that is measured, and how good it is."""

from bespoke.latency_tables.audit import AdditivityAudit
from bespoke.latency_tables.building import build_table
from bespoke.latency_tables.exchange import csv_text, read_csv, write_csv, write_official
from bespoke.latency_tables.fewshot import choose_networks, few_shot_table
from bespoke.latency_tables.fitting import NetworkSample, fit_table, read_samples
from bespoke.latency_tables.networks import NetworkModel
from bespoke.latency_tables.official import read_official
from bespoke.latency_tables.plot import plot_quality
from bespoke.latency_tables.profile import DeviceProfile
from bespoke.latency_tables.profiling import (
    EFFORTS,
    ProfilingEffort,
    ProfilingEntry,
    ProfilingPlan,
    Report,
    entry_onnx,
    plan_profiling,
)
from bespoke.latency_tables.quality import Correction, QualityCard
from bespoke.latency_tables.reading import read_table
from bespoke.latency_tables.reports import check_reports
from bespoke.latency_tables.table import (
    LatencyStat,
    LatencyTable,
    TablePricer,
    covered_space,
)
from bespoke.latency_tables.timing import Timing

__all__ = [
    "EFFORTS",
    "AdditivityAudit",
    "Correction",
    "DeviceProfile",
    "LatencyStat",
    "LatencyTable",
    "NetworkModel",
    "NetworkSample",
    "ProfilingEffort",
    "ProfilingEntry",
    "ProfilingPlan",
    "QualityCard",
    "Report",
    "TablePricer",
    "Timing",
    "build_table",
    "check_reports",
    "choose_networks",
    "covered_space",
    "csv_text",
    "entry_onnx",
    "few_shot_table",
    "fit_table",
    "plan_profiling",
    "plot_quality",
    "read_csv",
    "read_official",
    "read_samples",
    "read_table",
    "write_csv",
    "write_official",
]
