"""The tiny network, and its export, for every test file here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from splite_deploy.bundle import Bundle


@pytest.fixture
def tiny(tiny_model: Path) -> Any:
    """The tiny network with its weights."""
    pytest.importorskip("torch")
    from splite_deploy.export.source.symbol import load_symbol

    return load_symbol("arch.py:build", tiny_model.parent)().eval()


@pytest.fixture
def export(tiny_model: Path, tmp_path: Path) -> Callable[..., Bundle]:
    """Exports a checkpoint of the tiny model on two crops, to ``t.splite``."""
    from splite_deploy.export import ExportOptions, export_bundle

    def run(checkpoint: Path, model: Path = tiny_model, **options: Any) -> Bundle:
        return export_bundle(checkpoint, tmp_path / "t.splite", model=model, options=ExportOptions(crops=2, **options))

    return run
