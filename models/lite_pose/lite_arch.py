"""What ``model.toml`` names: `build` of `lite_network`, a backbone with upsampling and a head.

It holds nothing itself: the file that ``model.toml`` names is a module of its own each time it is loaded, and the
classes that `lite_int8` looks for must be those of the one `lite_network` that all import.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from lite_network import build

__all__ = ["build"]
