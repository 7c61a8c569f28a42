"""The machine and its software, with the versions of every backend that is installed."""

from __future__ import annotations

from splite_deploy.device import environment
from splite_deploy.device.environment import Environment
from splite_deploy.runtime.backends import distributions


def read_environment() -> Environment:
    """What a latency was measured on; never raises."""
    return environment.read_environment(packages={**environment.PACKAGES, **distributions()})
