"""The JSON Schema of a benchmark result, made from its dataclasses and their docstrings.

    python -m splite_deploy.bench.schema > splite_deploy/bench/schema.json

The published file is what other programs read results by; a test fails when it differs from the dataclasses.
"""

from __future__ import annotations

import json
from typing import Any

from splite_deploy.bench.result import SCHEMA_VERSION, BenchResult
from splite_deploy.spec.json_schema import schema_of


def result_schema() -> dict[str, Any]:
    """The schema of one line of JSON that `BenchResult.to_dict` writes, of the present version."""
    title = f"Benchmark result of splite-deploy, schema version {SCHEMA_VERSION}"
    schema = schema_of(BenchResult, title, closed=True)
    schema["properties"]["schema_version"]["const"] = SCHEMA_VERSION
    return schema


if __name__ == "__main__":
    print(json.dumps(result_schema(), indent=1, ensure_ascii=False))
