"""What ``model.toml`` names: `build` of `lite_network`, a backbone with upsampling and a head.

It holds nothing itself, since every model has a file of this name and a training may use several models at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from lite_network import build

__all__ = ["build"]
