"""Latency of an artifact on this machine: end to end, by stage, and of the model alone, with the environment."""

from __future__ import annotations

from splite_deploy.bench.environment import read_environment
from splite_deploy.bench.loop import EstimatorSubject, Input, Measurement, NetworkSubject, Options, measure
from splite_deploy.bench.recommend import Recommendation, recommend_of
from splite_deploy.bench.records import append_record, append_result, read_results
from splite_deploy.bench.report.text import environment_table, table
from splite_deploy.bench.result import SCHEMA_VERSION, BenchResult
from splite_deploy.bench.run import Extras, run_bench, run_file, run_network_file, run_targets
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bench.targets import ArtifactTarget, FileTarget, NetworkTarget, Target, golden_inputs
from splite_deploy.device.environment import Environment

__all__ = [
    "SCHEMA_VERSION",
    "ArtifactTarget",
    "BenchResult",
    "Environment",
    "EstimatorSubject",
    "Extras",
    "FileTarget",
    "Input",
    "LatencyStats",
    "Measurement",
    "NetworkSubject",
    "NetworkTarget",
    "Options",
    "Recommendation",
    "Target",
    "append_record",
    "append_result",
    "environment_table",
    "golden_inputs",
    "measure",
    "read_environment",
    "read_results",
    "recommend_of",
    "run_bench",
    "run_file",
    "run_network_file",
    "run_targets",
    "table",
]
