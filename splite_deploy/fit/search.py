"""The search itself, from a checkpoint to measured bundles, readable from top to bottom; it does none of the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.fit.driver import Driver, Flow, errors_of, succeeded
from splite_deploy.fit.halving import going_on
from splite_deploy.fit.latency_table import LatencyTable
from splite_deploy.fit.measuring import Place
from splite_deploy.fit.space import Candidate, Space, Variant
from splite_deploy.fit.steps import Needs, Result, Step
from splite_deploy.fit.work import BUNDLE, CHECKPOINT, PARENT
from splite_deploy.spec.plain import to_plain

REFERENCE = Variant("ort", "fp32")
"""By which layers are measured, and the dense network that predictions begin with."""
SLACK = 1.25
"""A network that is predicted to take so many times the budget is not trained: predictions err by some 20 %."""
SLACK_INT8 = 4.0
"""The same where lower precisions are tried: what int8 gains depends on the machine."""
_SHAPES_AT_ONCE = 150


@dataclass(frozen=True)
class Settings:
    """What a search is about.

    Attributes:
        space: What is tried.
        own: The network that the search begins with, as a candidate.
        parent: SHA-256 of its checkpoint.
        digests: SHA-256 of what steps read besides: ``model``, ``training``, ``yardstick``, ``conversion``.
        places: Machines to measure on.
        budget_ms: How long a frame may take there at the 99th percentile; None for no limit.
        trains: Whether networks are fine-tuned.
        training_needs: What a training takes.
    """

    space: Space
    own: Candidate
    parent: str
    digests: Mapping[str, str]
    places: Sequence[Place]
    budget_ms: float | None = None
    trains: bool = True
    training_needs: Needs = field(default_factory=Needs)


@dataclass(frozen=True)
class Network:
    """What became of a candidate.

    Attributes:
        candidate: It.
        predicted_ms: By place, what the table of layers says of it in float32; None where it cannot tell.
        rungs: By steps of fine-tuning in all, its error then; of the dense network by 0.
        checkpoint: SHA-256 of its weights after the last of them; None where it never had any.
        fate: ``finished``, ``too slow``, ``stopped`` by halving, or ``failed``.
        reason: Why it did not finish, as a sentence; empty where it did.
    """

    candidate: Candidate
    predicted_ms: Mapping[str, float | None] = field(default_factory=dict)
    rungs: Mapping[int, float] = field(default_factory=dict)
    checkpoint: str | None = None
    fate: str = "finished"
    reason: str = ""


@dataclass(frozen=True)
class Point:
    """An artifact on a machine.

    Attributes:
        network: Name of its candidate.
        variant: What runs it.
        place: The machine.
        error: In `splite_deploy.fit.score.UNITS`, as this artifact computes it.
        files: SHA-256 of the bundle's files by name.
        measured: See `Place.measure`.
    """

    network: str
    variant: Variant
    place: str
    error: float
    files: Mapping[str, str]
    measured: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For example ``x2-r8-128x128 ort int8``."""
        return f"{self.network} {self.variant.name}"


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        against: What errors were measured against; a key of `splite_deploy.fit.score.UNITS`.
        parent_error: Of the network that it began with.
        networks: By name, in the order in which they were tried.
        points: What was measured.
        unmeasured: By what was to be exported or measured, why it was not.
        notes: What else is worth knowing, as sentences.
    """

    against: str
    parent_error: float
    networks: Mapping[str, Network]
    points: Sequence[Point]
    unmeasured: Mapping[str, str]
    notes: Sequence[str]


def search(settings: Settings, driver: Driver) -> Outcome:
    """Searches.

    Args:
        settings: For what.
        driver: Has the steps done.

    Raises:
        UsageError: No candidate can keep the budget anywhere, as the tables of layers say, or none could be made;
            nothing is trained then.
        SpliteError: Why the parent cannot be measured.
    """
    steps = _Steps(settings)
    candidates = settings.space.candidates_for(settings.own)
    compacted = driver.together({one: steps.compacted(one) for one in dict.fromkeys([settings.own, *candidates])})
    networks = {one: Network(one) for one in candidates}
    for one, err in errors_of(compacted).items():
        if one == settings.own:
            raise err
        networks[one] = replace(networks[one], fate="failed", reason=err.message)
    if all(one.fate == "failed" for one in networks.values()):
        raise _none_left(networks)
    made = succeeded(compacted)
    (parent,) = driver.together({"parent": steps.scored(settings.own, made[settings.own])}).values()
    if isinstance(parent, SpliteError):
        raise parent
    predicted, notes = _predicted(settings, driver, steps, made)
    for one in candidates:
        networks[one] = replace(networks[one], predicted_ms={name: known.get(one) for name, known in predicted.items()})
    running = _not_too_slow(settings, networks, predicted)
    weights = {one: made[one].files[CHECKPOINT] for one in running}
    for steps_before, steps_now in zip((0, *settings.space.steps), settings.space.steps, strict=False):
        tuned = driver.together({one: steps.tuned(one, weights[one], steps_before, steps_now) for one in running})
        for one, err in errors_of(tuned).items():
            networks[one] = replace(networks[one], fate="failed", reason=err.message)
        for one, (sha256, error) in succeeded(tuned).items():
            weights[one] = sha256
            rungs = {**networks[one].rungs, steps_now if settings.trains and one != settings.own else 0: error}
            networks[one] = replace(networks[one], rungs=rungs, checkpoint=sha256)
        running = list(succeeded(tuned))
        if not running:
            raise _none_left(networks)
        if not settings.trains:
            break
        if steps_now != settings.space.steps[-1]:
            errors = {one: error for one, (_, error) in succeeded(tuned).items()}
            best = going_on(errors, list(predicted.values()), _slack_ms(settings), settings.space.keep)
            for one in set(running) - set(best):
                reason = f"Others had less error after {steps_now} steps."
                networks[one] = replace(networks[one], fate="stopped", reason=reason)
            running = best
    points, unmeasured = _measured(settings, driver, steps, {one: weights[one] for one in running})
    named = {one.name: network for one, network in networks.items()}
    return Outcome(parent.facts["against"], parent.facts["error"], named, points, unmeasured, notes)


def _predicted(
    settings: Settings, driver: Driver, steps: _Steps, made: Mapping[Candidate, Result]
) -> tuple[dict[str, dict[Candidate, float | None]], list[str]]:
    """By place what the tables of layers say of each network, and why where one says nothing."""
    layers = {one: result.facts["layers"] for one, result in made.items()}
    exported = driver.together({"dense": steps.exported(settings.own, settings.parent, REFERENCE)})["dense"]
    found: dict[str, dict[Candidate, float | None]] = {}
    notes = []
    for place in settings.places:
        known = {}
        for options, result in driver.store.all_of("layers"):
            if (options["place"], options["machine"]) == (place.name, place.identity):
                known.update(result.facts["times_us"])
        lacking = LatencyTable(known).lacks(shape for shapes in layers.values() for shape in shapes)
        chunks = [lacking[i : i + _SHAPES_AT_ONCE] for i in range(0, len(lacking), _SHAPES_AT_ONCE)]
        timed = driver.together({index: steps.layers(place, chunk) for index, chunk in enumerate(chunks)})
        dense: dict[str, Result | SpliteError] = (
            {"dense": exported}
            if isinstance(exported, SpliteError)
            else (driver.together({"dense": steps.measured(settings.own, exported, REFERENCE, place)}))
        )
        for result in succeeded(timed).values():
            known.update(result.facts["times_us"])
        for err in [*errors_of(timed).values(), *errors_of(dense).values()][:1]:
            notes.append(f"Nothing is predicted for {place.name}: {err.message}")
        table, times = LatencyTable(known), succeeded(dense).get("dense")
        found[place.name] = {}
        for one, shapes in layers.items():
            predicted = None
            if times is not None:
                facts = times.facts
                predicted = table.predict_ms(shapes, layers[settings.own], facts["model_ms"])
                around_ms = facts["p50_ms"] - facts["model_ms"]  # the crop before and the decoding behind
                predicted = None if predicted is None else predicted + around_ms
            found[place.name][one] = predicted
    return found, notes


def _slack_ms(settings: Settings) -> float | None:
    lower = any(one != "fp32" for one in settings.space.precision)
    return None if settings.budget_ms is None else settings.budget_ms * (SLACK_INT8 if lower else SLACK)


def _not_too_slow(
    settings: Settings, networks: dict[Candidate, Network], predicted: Mapping[str, Mapping[Candidate, float | None]]
) -> list[Candidate]:
    """Those that may keep the budget somewhere.

    Raises:
        UsageError: There is none.
    """
    limit_ms, running = _slack_ms(settings), [one for one, known in networks.items() if known.fate == "finished"]
    if limit_ms is None:
        return running
    fast = [
        one
        for one in running
        if any((known := times.get(one)) is None or known <= limit_ms for times in predicted.values())
    ]
    for one in set(running) - set(fast):
        told = min(known for times in predicted.values() if (known := times.get(one)) is not None)
        reason = f"It is predicted to take {told:.3g} ms in float32, and the budget is {settings.budget_ms:g} ms."
        networks[one] = replace(networks[one], fate="too slow", reason=reason)
    if not fast:
        told, best = min(
            (known, one.name)
            for times in predicted.values()
            for one in running
            if (known := times.get(one)) is not None
        )
        raise UsageError(
            f"No network can keep the budget of {settings.budget_ms:g} ms: the fastest, {best}, is predicted to take "
            f"{told:.3g} ms in float32.",
            hint="Try more: a larger --speed-up, a smaller --size, or a larger --budget. Nothing was trained.",
        )
    return fast


def _none_left(networks: Mapping[Candidate, Network]) -> UsageError:
    first = next(one for one in networks.values() if one.fate == "failed")
    return UsageError(
        f"No network is left: all {len(networks)} failed. {first.candidate.name}: {first.reason}",
        hint="Try one of them by hand; what was done so far is kept.",
    )


def _measured(
    settings: Settings, driver: Driver, steps: _Steps, weights: Mapping[Candidate, str]
) -> tuple[list[Point], dict[str, str]]:
    """Bundles of the networks that are left, on all machines, when nothing else is done that would disturb."""
    wanted = [(one, variant) for one in weights for variant in settings.space.variants]
    exported = driver.together({(one, variant): steps.exported(one, weights[one], variant) for one, variant in wanted})
    unmeasured = {f"{one.name} {variant.name}": err.message for (one, variant), err in errors_of(exported).items()}
    held = succeeded(exported)
    measured = driver.together(
        {
            (one, variant, place.name): steps.measured(one, held[one, variant], variant, place)
            for one, variant in held
            for place in settings.places
        }
    )
    for (one, variant, name), err in errors_of(measured).items():
        unmeasured[f"{one.name} {variant.name} on {name}"] = err.message
    points = [
        Point(one.name, variant, name, held[one, variant].facts["error"], held[one, variant].files, result.facts)
        for (one, variant, name), result in succeeded(measured).items()
    ]
    return points, unmeasured


class _Steps:
    """The steps of a search, as flows.

    Args:
        settings: Of the search.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def _step(self, kind: Any, about: str, inputs: Mapping[str, str], needs: Needs, **options: Any) -> Step:
        return Step(kind, about, inputs, options, needs)

    def compacted(self, candidate: Candidate) -> Flow[Result]:
        told = to_plain(candidate)
        inputs = {CHECKPOINT: self._settings.parent}
        return (yield self._step("compact", candidate.name, inputs, Needs(), candidate=told, **self._read("model")))

    def scored(self, candidate: Candidate, made: Result) -> Flow[Result]:
        return (yield self._score(candidate, made.files[CHECKPOINT]))

    def _score(self, candidate: Candidate, sha256: str) -> Step:
        inputs = {CHECKPOINT: sha256, PARENT: self._settings.parent}
        told = to_plain(candidate)
        return self._step("score", candidate.name, inputs, Needs(), candidate=told, **self._read("model", "yardstick"))

    def tuned(self, candidate: Candidate, sha256: str, before: int, now: int) -> Flow[tuple[str, float]]:
        """Weights and error after a rung; training goes on with the weights of the rung before."""
        settings = self._settings
        if settings.trains and candidate != settings.own:
            trained = yield self._step(
                "train",
                f"{candidate.name} to {now} steps",
                {CHECKPOINT: sha256},
                settings.training_needs,
                candidate=to_plain(candidate),
                steps=now - before,
                **self._read("model", "training"),
            )
            sha256 = trained.files[CHECKPOINT]
        scored = yield self._score(candidate, sha256)
        return sha256, scored.facts["error"]

    def exported(self, candidate: Candidate, sha256: str, variant: Variant) -> Flow[Result]:
        return (
            yield self._step(
                "export",
                f"{candidate.name} {variant.name}",
                {CHECKPOINT: sha256, PARENT: self._settings.parent},
                Needs(),
                candidate=to_plain(candidate),
                backend=variant.backend,
                precision=variant.precision,
                **self._read("model", "yardstick", "conversion"),
            )
        )

    def measured(self, candidate: Candidate, exported: Result, variant: Variant, place: Place) -> Flow[Result]:
        files = {name: sha256 for name, sha256 in exported.files.items() if name.startswith(BUNDLE)}
        return (
            yield self._step(
                "measure",
                f"{candidate.name} {variant.name} on {place.name}",
                files,
                Needs(device=place.name),
                name=f"{candidate.name}-{variant.backend}-{variant.precision}",
                backend=variant.backend,
                precision=variant.precision,
                place=place.name,
                machine=place.identity,
            )
        )

    def layers(self, place: Place, shapes: Sequence[str]) -> Flow[Result]:
        about = f"{len(shapes)} shapes on {place.name}"
        needs = Needs(device=place.name)
        return (yield self._step("layers", about, {}, needs, shapes=shapes, place=place.name, machine=place.identity))

    def _read(self, *names: str) -> dict[str, str]:
        return {name: self._settings.digests[name] for name in names}
