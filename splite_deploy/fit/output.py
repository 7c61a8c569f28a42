"""What a search leaves: the folder with its cache, networks, a bundle for each device, the page and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splite_deploy.bundle import new_bundle
from splite_deploy.errors import OutputError
from splite_deploy.files import anything_at, write_file, writing
from splite_deploy.fit.choice import Choice
from splite_deploy.fit.search import Outcome
from splite_deploy.fit.sized import sized_model
from splite_deploy.fit.store import Store, is_store
from splite_deploy.fit.work import BUNDLE, calibrates
from splite_deploy.spec import load_model_toml
from splite_deploy.spec.plain import json_text, to_plain
from splite_deploy.text import command

CACHE, NETWORKS, PAGE, FIGURES = "cache", "networks", "index.html", "results.json"


@dataclass(frozen=True)
class Shipped:
    """What a device gets.

    Attributes:
        choice: What and why.
        bundle: Where its bundle is; None where there is none.
        again: The command that makes the bundle again, of a network in the folder of the search.
    """

    choice: Choice
    bundle: Path | None = None
    again: str = ""


class Folder:
    """The folder of a search.

    Args:
        path: Made where it is not there.

    Raises:
        OutputError: There is something else, or it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        held = (one for one in path.rglob("*") if not one.is_dir())  # a search that was killed at once left folders
        if anything_at(path) and not is_store(path / CACHE) and (not path.is_dir() or any(held)):
            raise OutputError(f"{path} exists and is not the folder of a search.", hint="Name another with --output.")
        self.store = Store(path / CACHE)

    def put(
        self,
        outcome: Outcome,
        choices: Sequence[Choice],
        model: Path,
        images: Path | None = None,
        calibration: Path | None = None,
    ) -> list[Shipped]:
        """Writes the networks that were measured, and the chosen bundle of each device.

        Args:
            outcome: Of the search.
            choices: Of its points.
            model: The model spec of the parent.
            images: That conversions were compared on; None where they were rendered.
            calibration: See `splite_deploy.fit.work.Project`.

        Raises:
            OutputError: Something cannot be written.
        """
        networks = self.path / NETWORKS
        with writing(networks):
            networks.mkdir(exist_ok=True)
        models: dict[str, Path] = {}
        for name in dict.fromkeys(one.network for one in outcome.points):
            network = outcome.networks[name]
            assert network.checkpoint is not None
            write_file(networks / f"{name}.safetensors", self.store.content(network.checkpoint))
            models[name] = self._model(model, network.candidate.height, network.candidate.width)
        shipped = []
        for choice in choices:
            point = choice.ship
            if point is None:
                shipped.append(Shipped(choice))
                continue
            bundle = self.path / f"{choice.place}.splite"
            with new_bundle(bundle, overwrite=True) as folder:
                for held, sha256 in point.files.items():
                    write_file(folder / held.removeprefix(BUNDLE), self.store.content(sha256))
            words: list[str | Path] = [
                "--model",
                models[point.network],
                "-b",
                point.variant.backend,
                "-p",
                point.variant.precision,
            ]
            words += [] if images is None else ["--images", images]
            words += ["--calibration", calibration] if calibration is not None and calibrates(point.variant) else []
            checkpoint = networks / f"{point.network}.safetensors"
            again = command("export", checkpoint, *words, "-o", f"{choice.place}.splite")
            shipped.append(Shipped(choice, bundle, again))
        return shipped

    def _model(self, model: Path, height: int, width: int) -> Path:
        spec, _ = load_model_toml(model)
        if (spec.input.height, spec.input.width) == (height, width):
            return model
        target = self.path / NETWORKS / f"model-{height}x{width}.toml"
        with writing(target):
            sized_model(model, height, width, target)
        return target

    def put_figures(self, outcome: Outcome, shipped: Sequence[Shipped], counts: Mapping[str, Any]) -> dict[str, Any]:
        """Writes all figures as JSON; gives them as plain data."""
        told = {
            **to_plain(outcome),
            "shipped": [
                {
                    "place": one.choice.place,
                    "reason": one.choice.reason,
                    "point": None if one.choice.ship is None else one.choice.ship.name,
                    "front": list(one.choice.front),
                    "again": one.again,
                }
                for one in shipped
            ],
            "steps": to_plain(counts),
        }
        text, _ = json_text(told, indent=1)
        write_file(self.path / FIGURES, f"{text}\n".encode())
        return told
