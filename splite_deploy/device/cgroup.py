"""What the control group (cgroup) of this process allows, such as that of a container.

Standard library only, so that it can be read where all else is broken.
"""

from __future__ import annotations

from pathlib import Path


def cpu_quota_cores(root: Path = Path("/")) -> float | None:
    """Processor time that the control group (version 2) allows, in cores; None without a limit or where unreadable."""
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number, and means no limit
        return None
