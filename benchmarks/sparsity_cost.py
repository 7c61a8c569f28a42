"""What sparsity-aware training costs: a step with a penalty against a plain step of the same network, in turn.

    python benchmarks/sparsity_cost.py [--threads 2] [--out benchmarks/results/MACHINE-sparsity.jsonl]

A step is all that `models/splite_hand/train.py` does with a batch: forward, loss, backward, optimiser, averaging.
The batch is always the same random one, since the time does not depend on it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch  # noqa: TID253
from rich.progress import Progress

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.bootstrap import ratio_of_medians
from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.spec import load_model_toml
from splite_deploy.spec.plain import to_plain

HAND = Path(__file__).parents[1] / "models" / "splite_hand"
sys.path.insert(0, str(HAND))
from data import Batch  # noqa: E402
from train import Recipe, Training  # noqa: E402

RECORD_VERSION = 1
KIND = "sparsity-cost"
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "bn-scale": {"sparsity": "bn-scale"},
    "group-lasso": {"sparsity": "group-lasso"},
    "group-lasso, pruned by group-norm": {"sparsity": "group-lasso", "prune": "group-norm", "prune_speed_up": 2.0},
    "group-lasso, pruned by taylor": {"sparsity": "group-lasso", "prune": "taylor", "prune_speed_up": 2.0},
}


def step_of(options: argparse.Namespace, extras: dict[str, object]) -> Run:
    """A training's step. Pruning goes on through all steps that are timed, with its choices every 50th."""
    spec, host = load_model_toml(HAND / "model.toml")
    plain = {"learning_rate": 1e-3, "weight_decay": 0.02, "ema_decay": 0.999, "real_share": 1.0, "synthetic": 0}
    steps = 2 * (options.frames + options.warmup)
    recipe = Recipe(steps=steps, batch=options.batch, seed=0, bfloat16=options.bfloat16, **plain, **extras)  # type: ignore[arg-type]
    training = Training(spec, dict(host.arch_args), recipe, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        torch.randn(options.batch, 3, spec.input.height, spec.input.width, generator=generator),
        torch.rand(options.batch, spec.keypoint_count, 2, generator=generator) * spec.input.width,
        torch.randn(options.batch, spec.keypoint_count, generator=generator),
    )
    return lambda index: training.train_step(batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100, help="timed steps of each")
    parser.add_argument("--warmup", type=int, default=10, help="steps of each before, not counted")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--bfloat16", action="store_true", help="as train.py --bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON lines file to append to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with Progress() as progress:
        task = progress.add_task("steps", total=None)
        samples_by_name = interleave(
            {name: step_of(options, extras) for name, extras in VARIANTS.items()},
            options.frames,
            warmup_frames=options.warmup,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    rows = {}
    for name, samples in samples_by_name.items():
        stats, ratio = LatencyStats.from_samples(samples), ratio_of_medians(samples, samples_by_name["plain"])
        print(f"{name:36} p50 {stats.p50_ms:7.1f} ms a step, {ratio} x plain")
        rows[name] = {"step": to_plain(stats), "ratio": to_plain(ratio)}
    if options.out is not None:
        record = {
            "record_version": RECORD_VERSION,
            "kind": KIND,
            "threads": options.threads,
            "batch": options.batch,
            "bfloat16": options.bfloat16,
            "environment": to_plain(read_environment()),
            "steps": rows,
        }
        append_record(options.out, record)


if __name__ == "__main__":
    main()
