"""Latency of an artifact on this machine: end to end, by stage, and of the model alone, with the environment."""

from __future__ import annotations

from splite_deploy.bench.environment import read_environment
from splite_deploy.bench.loop import EstimatorSubject, Input, Measurement, NetworkSubject, Options, measure
from splite_deploy.bench.records import append_record, append_result, read_results
from splite_deploy.bench.report.text import environment_table, table
from splite_deploy.bench.result import SCHEMA_VERSION, BenchResult
from splite_deploy.bench.run import Extras, golden_inputs, run_bench, run_file, run_network_file
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.device.environment import Environment

__all__ = [
    "SCHEMA_VERSION",
    "BenchResult",
    "Environment",
    "EstimatorSubject",
    "Extras",
    "Input",
    "LatencyStats",
    "Measurement",
    "NetworkSubject",
    "Options",
    "append_record",
    "append_result",
    "environment_table",
    "golden_inputs",
    "measure",
    "read_environment",
    "read_results",
    "run_bench",
    "run_file",
    "run_network_file",
    "table",
]
