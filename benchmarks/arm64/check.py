"""Verifies every ort and tflite artifact of a bundle and keeps what each network gives, on whatever machine runs this.

    python check.py BUNDLE FOLDER FIRST

writes FOLDER/verified.json, what `verify` found by artifact, and FOLDER/outputs.npz, the outputs on some
golden crops. It begins with artifact FIRST: machines that begin apart and share a cache load fewer files for the first
time, each of which takes an emulated process of its own.
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
KEPT = 4
"""So many golden crops are run once more for their outputs: an emulated inference takes half a second."""


def main() -> None:
    path, folder, first = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    bundle = Bundle.open(path)
    crops, spec = bundle.golden().crops[:KEPT], bundle.model
    preprocessor = Preprocessor(spec.input, spec.input.color)
    verified, outputs = {}, {}
    artifacts = [one for one in bundle.manifest.artifacts if one.backend in BACKENDS]
    first %= max(len(artifacts), 1)
    for artifact in (*artifacts[first:], *artifacts[:first]):
        (result,) = verify(bundle, artifact.backend, artifact.precision, threads=1)
        verified[result.label] = {
            "deviation_px": to_plain(result.parity.deviation_px),
            "depth": to_plain(result.parity.depth),
            "depth_unit": result.parity.depth_unit,
            "violations": list(result.violations),
        }
        with open_session(bundle, artifact.backend, artifact.precision, threads=1) as session:
            given = run_each(session, preprocessor.feed(crops, session.inputs[0]), spec)
        outputs.update({f"{result.label}/{role}": values for role, values in given.items()})
    (folder / "verified.json").write_text(json.dumps(verified), encoding="utf-8")
    np.savez(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    main()
