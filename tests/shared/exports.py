"""What the tests of several kinds of exports assert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.export.source.load import run_network
from splite_deploy.runtime.preprocess import Preprocessor


def refused(
    kind: type[SpliteError], message: str, hint: str, call: Callable[..., Any], *arguments: Any, **o: Any
) -> None:
    """Asserts that a call fails as expected, with a hint."""
    with pytest.raises(kind) as caught:
        call(*arguments, **o)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint.endswith(".")


def golden_is_of(bundle: Bundle, network: Any) -> None:
    """Asserts that the reference in a bundle is this network."""
    spec, golden = bundle.model, bundle.golden()
    tensors = Preprocessor(spec.input, spec.input.color).normalise(golden.crops)
    expected = run_network(network, tensors, spec)
    for role, values in golden.outputs.items():
        np.testing.assert_allclose(values, expected[role], atol=1e-4)
