"""Fine-tunes a compacted network of tests/tiny by what the dense one says: a training that takes a second or two."""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from splite_deploy.export.source.checkpoint import build_architecture, read_checkpoint
from splite_deploy.export.source.load import load_model
from splite_deploy.spec import load_model_toml


def tune(checkpoint: Path, steps: int, out: Path, model: Path) -> None:
    """Writes the checkpoint after so many steps of Adam, with what its header says of its widths."""
    torch.manual_seed(0)
    spec, host = load_model_toml(model)
    teacher, student = build_architecture(host).eval(), load_model(checkpoint, model, None).network.train()
    optimiser = torch.optim.Adam(student.parameters(), 3e-3)
    for _ in range(steps):
        image = torch.randn(8, 3, spec.input.height, spec.input.width)
        with torch.no_grad():
            wanted = teacher(image)
        loss = sum(torch.nn.functional.mse_loss(*pair) for pair in zip(student(image), wanted, strict=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    metadata = dict(read_checkpoint(checkpoint).metadata)
    save_file({name: tensor.contiguous() for name, tensor in student.state_dict().items()}, out, metadata)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, kind in (("init", Path), ("steps", int), ("out", Path), ("model", Path)):
        parser.add_argument(f"--{name}", type=kind)
    given = parser.parse_args()
    tune(given.init, given.steps, given.out, given.model)
