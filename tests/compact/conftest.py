"""The networks of tests/shared/nets.py, for every test file here."""

from __future__ import annotations

from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def nets() -> ModuleType:
    """The module nets.py."""
    pytest.importorskip("torch")
    import nets

    return nets
