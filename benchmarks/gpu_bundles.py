"""Exports what the tests and the table on the GPU are made of, on a machine that has the extra 'export'.

    python benchmarks/gpu_bundles.py --data HAND_DIGITS OUT

The GPU's machine needs torch for nothing but the comparison then: carry OUT there, and name it in SPLITE_GPU_BUNDLES.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HAND = ROOT / "models" / "splite_hand"
CHECKPOINTS = {"compacted": HAND / "splite_hand.safetensors", "dense": HAND / "splite_hand_dense.safetensors"}
BUNDLES = {"compacted": False, "compacted-fused": True, "dense": False, "dense-fused": True}
"""Name and whether normalisation and decoding are in the graph; the name begins with that of the checkpoint."""
CROPS = 32


def make_bundle(name: str, folder: Path, data: Path) -> Path:
    """Exports one of `BUNDLES` with a dynamic batch, calibrated on photographs; returns its path."""
    from splite_deploy.export import ExportOptions, export_bundle

    fused = BUNDLES[name]
    options = ExportOptions(
        backends=("ort", "trt"),
        precisions=("fp32", "fp16", "int8"),
        crops=CROPS,
        calibration=data,
        fuse_input=fused,
        fuse_decode=fused,
        dynamic_batch=True,
        overwrite=True,
    )
    checkpoint = CHECKPOINTS[name.partition("-")[0]]
    return export_bundle(checkpoint, folder / f"{name}.splite", model=HAND / "model.toml", options=options).path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument("--data", type=Path, required=True, help="folder of hand-digits (labels.json)")
    options = parser.parse_args()
    for name in BUNDLES:
        print(make_bundle(name, options.folder, options.data), file=sys.stderr)


if __name__ == "__main__":
    main()
