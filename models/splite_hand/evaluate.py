"""Accuracy of a bundle on labelled hands, through the public runtime.

    python models/splite_hand/evaluate.py hand.splite --data HAND_DIGITS [--backend ort]

Labels made by another network are that network's opinion; say so wherever the figures are quoted.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from splite_deploy.bench.evaluation import estimate_of, keypoint_errors
from splite_deploy.errors import SpliteError
from splite_deploy.files import write_file
from splite_deploy.metrics.labels import read_labels
from splite_deploy.runtime import PoseEstimator, all_backends
from splite_deploy.spec import PRECISIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="NAME.splite")
    parser.add_argument("--data", type=Path, required=True, help="labels.json, or its folder")
    parser.add_argument("--split", default="val", help="which samples (default: val)")
    parser.add_argument("--backend", default="auto", choices=["auto", *all_backends()])
    parser.add_argument("--precision", choices=PRECISIONS)
    parser.add_argument("--worst", type=int, default=5, help="how many of the worst images to list")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write JSON to FILE; - prints it alone")
    options = parser.parse_args()
    try:
        labels = read_labels(options.data, split=options.split)
        with PoseEstimator.open(options.bundle, options.backend, options.precision, color="rgb") as estimator:
            errors = keypoint_errors(labels, estimate_of(estimator.at_any_angle))
            names = estimator.spec.skeleton.keypoint_names
    except SpliteError as err:
        sys.exit(f"error: {err}")
    accuracy = errors.summary()
    text = json.dumps(asdict(accuracy))
    if options.json == Path("-"):
        print(text)
        return
    if options.json is not None:
        write_file(options.json, f"{text}\n".encode())
    print(accuracy)
    means = 100 * errors.box_share.mean(axis=0)
    print("error by keypoint, % of box: " + ", ".join(f"{n} {m:.1f}" for n, m in zip(names, means, strict=True)))
    order = np.argsort(-errors.box_share.mean(axis=1))[: options.worst]
    worst = [f"{labels[i].path.name} {100 * errors.box_share[i].mean():.1f}" for i in order]
    print("worst images, % of box: " + ", ".join(worst))


if __name__ == "__main__":
    main()
