"""Targets as the publications draw them are read back: no codec of ours shares an error with its vectors."""

from __future__ import annotations

import dataclasses

import numpy as np
import published_codecs
import pytest
from published_codecs import BEGIN, CODECS, END, PAGE, Codec, Crop, rows

from splite_deploy.decoders import DECODERS, Boxes, Dark, HeatmapDecoder, PeopleDecoder

PRECISE_PX = 0.05
MEASURED = [pytest.param(codec, crop, id=f"{codec.name}, {crop}") for codec in CODECS for crop in codec.crops]


@pytest.mark.parametrize(("codec", "crop"), MEASURED)
def test_targets_are_read_back(codec: Codec, crop: Crop) -> None:
    errors = codec.measure(crop)
    assert min(errors.inside.size, errors.border.size) > 30
    for found, bound in ((errors.inside, codec.bound), (errors.border, codec.border)):
        assert found.max() <= (bound * crop.stride or PRECISE_PX)
    assert bool(codec.why) == (max(codec.bound, codec.border) > 0)


def test_a_wrong_alignment_is_seen() -> None:
    """What this page is for: networks that are read half a cell beside where they were trained."""
    dark = next(codec for codec in CODECS if type(codec.decoder(codec.crops[0])) is Dark)
    beside = dataclasses.replace(dark, decoder=lambda crop: Dark(crop.stride, "corner", 11))
    for crop in dark.crops:
        expected = (crop.stride - 1) / 2 * 2**0.5
        np.testing.assert_allclose(beside.measure(crop).inside, expected, rtol=0, atol=PRECISE_PX)


def test_every_decoder_of_heatmaps_has_a_codec() -> None:
    read = {type(codec.decoder(codec.crops[0])) for codec in CODECS}
    maps = {cls for cls in DECODERS.values() if issubclass(cls, HeatmapDecoder) and "depth" not in cls.type}
    assert maps <= read
    people = {cls for cls in DECODERS.values() if issubclass(cls, PeopleDecoder)}
    assert people - {Boxes} <= read  # which is given finished boxes


def test_the_page_holds_these_figures() -> None:
    """To a few thousandths, which libraries of linear algebra differ by, or three hundredths of it.

    Where a decoder reads what it was not made for, the largest of many equal values is another one with other kernels.
    """
    page = PAGE.read_text(encoding="utf-8")
    lines = page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    written, made = ([line.split("|")[1:-1] for line in found] for found in (lines[: len(rows())], rows()))
    assert [line[:2] for line in written] == [line[:2] for line in made]
    assert len({codec.name for codec in CODECS}) == len(CODECS)
    for found, expected in zip(written[2:], made[2:], strict=True):
        figures, anew = np.float64(found[2:]), np.float64(expected[2:])
        rtol = 0.03 if figures[0] > 1 else 0
        np.testing.assert_allclose(figures, anew, rtol=rtol, atol=0.005, err_msg=found[0])
    assert lines[len(made) :] == ["", *published_codecs.reasons()]
