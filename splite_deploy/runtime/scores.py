"""Whether what a network gives as scores are such: 0 to 1, where nothing else has compared a file with its network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders import PeopleDecoder
from splite_deploy.decoders.people import BOX, SCORE
from splite_deploy.errors import SpliteError
from splite_deploy.metrics.parity import Outputs
from splite_deploy.spec import ModelSpec
from splite_deploy.spec.view import has_columns, wanted_columns

COMPARED = "the crops of the comparison"
_ROUNDING = 1e-3


def check_scores(outputs: Outputs, spec: ModelSpec, where: str, error: type[SpliteError]) -> None:
    """Refuses what is read as a score unless it is one: 0 to 1 in all crops.

    Args:
        outputs: What the decoder reads, by role, N first; of a graph that decodes what that gives.
        spec: The model.
        where: What the outputs were computed of, for the message.
        error: What to raise.

    Raises:
        error: An output of scores, a head, a column of coordinates or the score of a candidate reaches beyond, as a
            depth, a visibility or a score before its sigmoid does; or boxes of two corners are inside out.
    """
    decoder, said = spec.decoder, f"on {where}, not in 0 to 1."
    if isinstance(decoder, PeopleDecoder):
        if beyond := _beyond(_scores_of(outputs, decoder, spec)):
            raise error(
                f"The scores of the candidates that the decoder '{decoder.type}' reads lie {beyond} {said}",
                hint="Check the decoder's form and its columns in model.toml; if they are scores before their sigmoid, "
                "export the network with the sigmoid of the scores inside.",
            )
        if inverted := _inverted(outputs, decoder, spec):
            raise error(
                f"{inverted} have no area on {where}: the right side lies before the left one, or the lower before the "
                "upper.",
                hint='Write boxes = "xywh" in [decoder] of model.toml if they are centre, width and height; otherwise '
                "check the columns of the boxes in [outputs].",
            )
        return
    for role in ("scores", *spec.heads):
        if role in outputs and (beyond := _beyond(outputs[role])):
            raise error(
                f"The output '{role}' lies {beyond} {said}",
                hint=f'Write activation = "sigmoid" in [outputs.{role}] of model.toml if they are scores before their '
                f"sigmoid; otherwise name the output that holds the {role} as its source.",
            )
    for role, values in outputs.items():
        if role not in decoder.layouts or not has_columns(decoder, role):
            continue
        columns = wanted_columns(decoder, ("score",) if values.shape[-1] > 2 else ())
        place = columns.index("score") if "score" in columns else None
        if place is not None and (beyond := _beyond(values[..., place])):
            names = ", ".join(f'"{name}"' for name in columns[:place])
            raise error(
                f"Column {place + 1} of '{role}' is read as the score, and lies {beyond} {said}",
                hint=f"Say in [outputs.{role}] of model.toml what the network gives: columns = "
                f'[{names}, "visibility"], or "z", or "_" for what nobody reads; where it is a score before '
                f'its sigmoid, columns = [{names}, "score"] with activation = "sigmoid".',
            )


def check_candidates(outputs: Outputs, spec: ModelSpec, error: type[SpliteError]) -> None:
    """Refuses to compare nothing: a network with its suppression inside may give no candidates at all.

    Args:
        outputs: See `check_scores`.
        spec: The model.
        error: What to raise.

    Raises:
        error: There is no candidate on any crop.
    """
    if isinstance(spec.decoder, PeopleDecoder) and not _candidates_of(outputs, spec.decoder, spec).any():
        raise error(
            f"The network gives no candidates on {COMPARED}: nothing of it can be compared.",
            hint="Name pictures that show what it finds, with --images.",
        )


def _inverted(outputs: Outputs, decoder: PeopleDecoder, spec: ModelSpec) -> str:
    """How many boxes are inside out, where most are of which the network gives both corners; empty if few are."""
    if getattr(decoder, "boxes", None) != "xyxy":
        return ""
    candidates = _candidates_of(outputs, decoder, spec)
    boxes = candidates[candidates[..., SCORE] >= decoder.min_score][:, BOX]
    wrong = int((boxes[:, 2:] <= boxes[:, :2]).any(axis=1).sum())
    return f"{wrong} of the {len(boxes)} boxes over the threshold" if 2 * wrong > len(boxes) else ""


def _candidates_of(outputs: Outputs, decoder: PeopleDecoder, spec: ModelSpec) -> FloatArray:
    """(N, A, 5 + 3 K), whether they are finite or not."""
    if decoder.decodes(outputs):
        return outputs[decoder.decoded_roles[0]]
    return decoder.candidates(outputs, spec.input)


def _scores_of(outputs: Outputs, decoder: PeopleDecoder, spec: ModelSpec) -> FloatArray:
    """(N, A) of all candidates."""
    if decoder.decodes(outputs):
        return outputs[decoder.decoded_roles[0]][..., SCORE]
    return decoder.scored(outputs, spec.input)[0]


def _beyond(scores: NDArray[np.float32]) -> str:
    """Between which numbers scores lie, where they reach beyond 0 to 1; NaN is told elsewhere."""
    known = scores[np.isfinite(scores)]
    if known.size == 0 or (known.min() >= -_ROUNDING and known.max() <= 1 + _ROUNDING):
        return ""
    return f"between {known.min():.3g} and {known.max():.3g}"
