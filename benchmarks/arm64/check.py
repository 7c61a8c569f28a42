"""Verifies every ort and tflite artifact of a bundle and keeps what each network gives, on whatever machine runs this.

    python check.py BUNDLE FOLDER

writes FOLDER/verified.json, what `verify` found by artifact, and FOLDER/outputs.npz, the outputs on golden crops.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from splite_deploy.bundle import Bundle
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import open_session
from splite_deploy.runtime.verify import run_each, verify
from splite_deploy.spec.plain import to_plain

BACKENDS = ("ort", "tflite")
KEPT = 2
"""Outputs on so many golden crops are kept, of int8 on all: an emulated inference in float takes half a second."""


def main() -> None:
    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    # This process is one of its own already, whose end is a failure: no file is loaded in another one before.
    sys.executable = ""
    bundle = Bundle.open(path)
    crops, spec = bundle.golden().crops, bundle.model
    preprocessor = Preprocessor(spec.input, spec.input.color)
    verified, outputs = {}, {}
    for artifact in (one for one in bundle.manifest.artifacts if one.backend in BACKENDS):
        (result,) = verify(bundle, artifact.backend, artifact.precision, threads=1)
        verified[result.label] = {
            "deviation_px": to_plain(result.parity.deviation_px),
            "depth": to_plain(result.parity.depth),
            "depth_unit": result.parity.depth_unit,
            "violations": list(result.violations),
        }
        with open_session(bundle, artifact.backend, artifact.precision, threads=1) as session:
            kept = crops if artifact.precision == "int8" else crops[:KEPT]
            given = run_each(session, preprocessor.feed(kept, session.inputs[0]), spec)
        outputs.update({f"{result.label}/{role}": values for role, values in given.items()})
    (folder / "verified.json").write_text(json.dumps(verified), encoding="utf-8")
    np.savez(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    main()
