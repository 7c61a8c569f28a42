"""Tensors for files without a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splite_deploy.bench.feeds import COUNT, feeds_from_file, random_feeds
from splite_deploy.bundle import TensorSpec
from splite_deploy.errors import UsageError


def spec(name: str, shape: tuple[int | None, ...], dtype: str) -> TensorSpec:
    return TensorSpec(name, shape, dtype, "", "")


INPUTS = (spec("image", (None, 3, 4, 4), "float32"), spec("mask", (1, 4), "uint8"))


def test_random_feeds_fit_and_are_always_the_same() -> None:
    feeds = random_feeds((*INPUTS, spec("low", (2,), "int8"), spec("on", (5,), "bool")), batch=2)
    again = random_feeds((*INPUTS, spec("low", (2,), "int8"), spec("on", (5,), "bool")), batch=2)
    assert len(feeds) == COUNT
    for feed, same in zip(feeds, again, strict=True):
        assert {name: (array.shape, array.dtype.name) for name, array in feed.items()} == {
            "image": ((2, 3, 4, 4), "float32"),
            "mask": ((1, 4), "uint8"),
            "low": ((2,), "int8"),
            "on": ((5,), "bool"),
        }
        assert all(np.array_equal(feed[name], same[name]) for name in feed)
        assert 0 <= feed["image"].min() < feed["image"].max() < 1
    assert (feeds[0]["image"] != feeds[1]["image"]).any()


def test_only_the_first_size_may_be_open() -> None:
    with pytest.raises(UsageError, match="not fix the sizes of the input 'image'") as caught:
        random_feeds((spec("image", (None, 3, None, 4), "float32"),), batch=1)
    assert "--inputs" in caught.value.hint


def test_a_batch_that_the_file_does_not_take() -> None:
    with pytest.raises(UsageError, match=r"does not take a batch of 4: its inputs are 'x' \[1, 3\]") as caught:
        random_feeds((spec("x", (1, 3), "float32"),), batch=4)
    assert "--batch" in caught.value.hint
    assert len(random_feeds((spec("x", (4, 3), "float32"),), batch=4)) == COUNT


def test_feeds_from_file(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((2, 1, 3, 4, 4))
    np.savez(tmp_path / "two.npz", image=images, mask=np.arange(8, dtype=np.uint8).reshape(2, 1, 4))
    feeds = feeds_from_file(tmp_path / "two.npz", INPUTS)
    assert [feed["mask"].tolist() for feed in feeds] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]
    np.testing.assert_array_equal(feeds[1]["image"], images[1].astype(np.float32))
    assert feeds[0]["image"].dtype == np.float32 and feeds[0]["image"].flags.c_contiguous
    np.savez(tmp_path / "one.npz", image=images[0], mask=np.zeros((1, 4), np.uint8))
    (one,) = feeds_from_file(tmp_path / "one.npz", INPUTS)
    assert one["image"].shape == (1, 3, 4, 4)


def test_feeds_from_file_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot read \S+none\.npz: No such file") as caught:
        feeds_from_file(tmp_path / "none.npz", INPUTS)
    assert caught.value.hint == "Save an array for each input under its name, with numpy.savez."
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(UsageError, match="it holds a single array without a name"):
        feeds_from_file(tmp_path / "array.npy", INPUTS)
    np.savez(tmp_path / "names.npz", picture=np.zeros(3))
    with pytest.raises(UsageError, match="holds picture; the network takes image, mask"):
        feeds_from_file(tmp_path / "names.npz", INPUTS)
    np.savez(tmp_path / "counts.npz", image=np.zeros((2, 1, 3, 4, 4)), mask=np.zeros((3, 1, 4), np.uint8))
    with pytest.raises(UsageError, match=r"have different lengths: \[2, 3\]"):
        feeds_from_file(tmp_path / "counts.npz", INPUTS)
    np.savez(tmp_path / "types.npz", image=np.zeros((1, 3, 4, 4)), mask=np.zeros((1, 4)))
    with pytest.raises(UsageError, match="'mask' is float64; the network takes uint8"):
        feeds_from_file(tmp_path / "types.npz", INPUTS)
