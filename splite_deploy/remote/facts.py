"""Run on a machine before anything else: what works there, and what it is, as JSON; see `work.Facts`.

    python -m splite_deploy.remote.facts FILE

Standard library only, until it is clear that there is more.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from splite_deploy.device.environment import read_environment

_NEEDED = {
    "click": "click",
    "rich": "rich",
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    **({} if sys.version_info >= (3, 11) else {"tomli": "tomli"}),
}
"""Modules that every command needs, and what to install for them."""


def facts() -> dict[str, Any]:
    """What `Facts` holds, as plain data."""
    environment = read_environment()
    missing = [install for module, install in _NEEDED.items() if find_spec(module) is None]
    broken, diagnosis = "", None
    try:
        if not missing:
            from splite_deploy.doctor import diagnose

            diagnosis = diagnose(exporting=False)
            needed = {check.name: check for stage in diagnosis.stages if stage.computes for check in stage.checks}
            versions = {check.name: check.detail for check in needed.values() if check.status == "ok"}
            environment = replace(environment, versions={**environment.versions, **versions})
    except ImportError as err:
        broken = str(err)
    return {
        "missing": missing,
        "broken": broken,
        "diagnosis": None if diagnosis is None else asdict(diagnosis),
        "environment": asdict(environment),
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(facts()), encoding="utf-8")
