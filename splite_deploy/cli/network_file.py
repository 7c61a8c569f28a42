"""Files without a bundle on the command line: ``.onnx``, ``.tflite``, engines, each with its ``model.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from splite_deploy.cli.app import FilePath
from splite_deploy.errors import UsageError
from splite_deploy.files import is_folder

model_option = click.option(
    "--model", type=FilePath, help="For a file without a bundle: its model spec; model.toml beside it without it."
)


def is_network_file(path: Path) -> bool:
    """Whether this is named like a file that a backend runs without a bundle, and is no folder."""
    from splite_deploy.runtime.session import file_suffixes

    return path.suffix.lower() in file_suffixes() and not is_folder(path)


def reject_bundle_options(file: Path, options: Mapping[str, object]) -> None:
    """Refuses options that a file alone has no use for.

    Args:
        file: The file.
        options: Their values by their name; None where they were not given.

    Raises:
        UsageError: One was given.
    """
    for name, value in options.items():
        if value is not None:
            raise UsageError(
                f"{name} is for bundles; {file.name} is a file without a bundle.",
                hint=f"Leave {name} out, or name the bundle.",
            )


def reject_model(bundle: Path, model: Path | None) -> None:
    """Refuses a model spec beside a bundle, which brings its own.

    Raises:
        UsageError: One was given.
    """
    if model is not None and is_folder(bundle):  # what else it is, its reader says
        raise UsageError(
            f"--model is for a file without a bundle; {bundle} is a bundle, which holds its model spec.",
            hint="Leave --model out.",
        )
