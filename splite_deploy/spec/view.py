"""The view of a network: how what it really takes and gives becomes what preprocessing makes and the decoder reads.

``[inputs]`` and ``[outputs]`` of ``model.toml`` hold it. Canonical are float32 tensors in the axes of
`splite_deploy.decoders.Decoder.layouts`, with the image in NCHW. Whatever applies a view, in numpy, in torch or in a
graph, follows the steps of `InputView.steps` and `OutputView.steps`, so that all of them do the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from splite_deploy.decoders import HEADS, Decoder, InputSize, Model, PeopleDecoder, layouts_of, roles_of, sizes_of
from splite_deploy.errors import FIELDS_DOC, SpecError, SpliteError, require
from splite_deploy.spec.plain import Unknown, structure, to_plain

Dtype = Literal["float32", "float16", "uint8", "int8", "int32"]
Column = Literal["x", "y", "z", "score", "visibility", "presence", "_"]
Activation = Literal["none", "sigmoid"]
Source = str | int | tuple[str | int, ...]
"""Of an output: its name, its index (a negative one counts from the end), or a path of keys and indices to it through
nested dictionaries and lists."""

IMAGE = "NCHW"
"""The canonical layout of the image."""
_GROUP = re.compile(r"1|[A-Z]|\([A-Z]{2,}\)")
_IGNORED = "_"


@dataclass(frozen=True)
class Steps:
    """What brings one tensor of a network into its canonical form, or the image into a network's form, in this order.

    Attributes:
        reshape: Sizes behind the batch.
        axes: Permutation of the axes that follows.
        slices: What is cut after that: axis, begin and end, the batch being axis 0.
        columns: Which columns of the last axis are kept, in their new order; None keeps them as they are.
        activation: What is applied last.
        activated: Which of the kept columns it is applied to; None for the whole tensor.
    """

    reshape: tuple[int, ...]
    axes: tuple[int, ...]
    slices: tuple[tuple[int, int, int], ...] = ()
    columns: tuple[int, ...] | None = None
    activation: Activation = "none"
    activated: tuple[int, ...] | None = None


@dataclass(frozen=True)
class InputView:
    """How the network takes the image.

    Attributes:
        source: Name or index of its input; absent it is the only one.
        layout: Its axes: ``NCHW``, ``NHWC``, or, of one channel, ``NHW``.
        dtype: Its type. For an integer one the normalised values are rounded to the nearest whole number, half to
            even, and clipped to its range.
    """

    source: str | int | None = None
    layout: str = IMAGE
    dtype: Dtype = "float32"

    def steps(self, shape: tuple[int, ...]) -> Steps:
        """From the canonical image of (C, h, w), batch left out, to the network's axes."""
        given = dict(zip(IMAGE[1:], shape, strict=True))
        groups = _groups(self.layout)
        letters = [letter for group in groups for letter in group if letter.isalpha()]
        dropped = [letter for letter in IMAGE if letter not in letters]  # of size one, so that they may go to the end
        axes = tuple(IMAGE.index(letter) for letter in [*letters, *dropped])
        sizes = (1 if group == "1" else math.prod(given[letter] for letter in group) for group in groups[1:])
        return Steps(tuple(sizes), axes)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What the network takes for an image of (C, h, w), batch left out."""
        return self.steps(shape).reshape

    @property
    def is_canonical(self) -> bool:
        """Whether the network takes what preprocessing makes."""
        return self.layout == IMAGE and self.dtype == "float32"


@dataclass(frozen=True)
class OutputView:
    """Which output of the network a role is, and how it lies there.

    Attributes:
        source: See `Source`; absent it is the output that has the role's name, else the one in the role's place.
        layout: Its axes in the network's order: the letters of the canonical layout, ``1`` for an axis of one, brackets
            around axes that are joined to one. Canonical axes of size one may be missing. ``KD`` may stand for the C of
            a volume. Absent it is the canonical layout.
        slice: Begin and end along canonical axes, cut before anything is compared; an end may be negative.
        columns: What the columns C of coordinates are; ``_`` for one that is ignored. Absent they are those that the
            decoder reads.
        activation: Applied to the output that was cut; of coordinates to the column ``score`` alone, which the columns
            here name, or else those of the decoder.
    """

    source: Source | None = None
    layout: str | None = None
    slice: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    activation: Activation = "none"

    def check(self, role: str, decoder: Decoder) -> None:
        """Compares it with the decoder that reads it.

        Raises:
            SpecError: The layout, the slice or the columns do not fit the canonical layout of the role.
        """
        canonical, where = layouts_of(decoder)[role], f"outputs.{role}"
        layout = canonical if self.layout is None else self.layout
        require(self.source != (), f"{where}.source is empty; it is a name, an index, or a path of some")
        _check_layout(layout, canonical, f"{where}.layout", joined=decoder.joined)
        axes = canonical[1:]
        for axis, (begin, end) in self.slice.items():
            require(axis in axes and len(axis) == 1, f"{where}.slice cuts {axis!r}; the axes are {', '.join(axes)}")
            held = begin >= 0 and (end < 0 or begin < end)
            require(held, f"{where}.slice of {axis} from {begin} to {end} holds nothing")
        open_axes = {axis for axis in axes if axis in self.slice and not (axis == axes[-1] and self.columns)}
        for group in _groups(_in_canonical_letters(layout, decoder.joined)):
            both = sorted(open_axes.intersection(group))
            require(len(both) < 2, f"{where}.layout joins {' and '.join(both)}, and slice cuts both")
        if self.columns:
            self._check_columns(role, decoder)
        if self.activation != "none":
            self._check_activation(role, decoder)

    def _check_columns(self, role: str, decoder: Decoder) -> None:
        canonical, where = layouts_of(decoder)[role], f"outputs.{role}"
        require(has_columns(decoder, role), f"{where}.columns is for coordinates; the decoder reads {canonical}")
        named = [name for name in self.columns if name != _IGNORED]
        require(len(set(named)) == len(named), f"{where}.columns has a name twice")
        wanted = wanted_columns(decoder, self.columns)
        missing = [name for name in wanted if name not in named]
        if missing:
            raise SpecError(
                f"Model spec: {where}.columns are {', '.join(self.columns)}; the decoder '{decoder.type}' reads "
                f"{', '.join(wanted)}.",
                hint=f"Name every column in the network's order, '{missing[0]}' among them, and '_' for those that "
                "nobody reads; a visibility or presence in 0 to 1 that shall be the score is called 'score'.",
            )

    def _check_activation(self, role: str, decoder: Decoder) -> None:
        """Refuses an activation that would reach more than maps or scores, or nothing."""
        what = f"Model spec: outputs.{role}.activation is {self.activation!r}"
        if role in HEADS:
            return
        if isinstance(decoder, PeopleDecoder):
            raise SpecError(
                f"{what}; it would reach boxes and keypoints, or what the decoder '{decoder.type}' takes before its "
                "sigmoid.",
                hint="Leave it out. If the network gives finished boxes with scores before their sigmoid, export it "
                "with the sigmoid of the scores inside.",
            )
        if has_columns(decoder, role) and "score" not in wanted_columns(decoder, self.columns):
            raise SpecError(
                f"{what}; of '{role}' it goes to the score alone, and no column is said to be one.",
                hint=f'Name every column in columns of [outputs.{role}], as in columns = ["x", "y", "score"], with a '
                "score that the decoder reads; or leave activation out.",
            )

    def steps(
        self,
        role: str,
        decoder: Decoder,
        keypoints: int,
        size: InputSize,
        shape: tuple[int, ...],
        error: type[SpliteError],
    ) -> Steps:
        """What brings an output of a certain shape into the canonical form of its role.

        Args:
            role: Its role.
            decoder: The decoder that reads it.
            keypoints: Their number K.
            size: Of the network's input.
            shape: What the network gives, batch left out.
            error: What to raise.

        Raises:
            error: The shape does not fit the layout.
        """
        canonical = layouts_of(decoder)[role]
        layout = canonical if self.layout is None else self.layout
        known = self._known(role, decoder, keypoints, size)
        joined, apart = _joined(layout, shape, decoder.joined)
        groups = _groups(_in_canonical_letters(layout, decoder.joined))[1:]
        columned = has_columns(decoder, role)
        found: dict[str, int] = {}
        fits = len(groups) == len(joined)
        for axis, (count, each) in apart.items():
            whole = sizes_of(decoder, role, keypoints, size)[canonical.index(axis) - 1]
            assert isinstance(whole, int)
            slower, faster = tuple(decoder.joined[axis])
            known |= (
                {faster: whole // keypoints} if axis in self.slice else {slower: keypoints, faster: whole // keypoints}
            )
            fits = fits and each == known[faster] and count == known.get(slower, count)
        for group, measured in zip(groups, joined, strict=False):
            letters = [letter for letter in group if letter.isalpha()]
            if len(letters) == 1:
                found[letters[0]] = measured
                continue
            rest = math.prod(known.get(letter, 1) for letter in letters)
            unknown = [letter for letter in letters if letter not in known]
            if len(unknown) > 1:
                which = "columns" if columned and canonical[-1] in unknown else "a layout with these axes apart"
                raise error(
                    f"How many of the {measured} numbers of '{role}' along ({group}) are {' and '.join(unknown)} "
                    "cannot be told.",
                    hint=f"Write {which} into [outputs.{role}] of model.toml, or leave out slice there.",
                )
            fits = fits and (measured % rest == 0 if unknown else measured == rest)
            found.update({letter: known.get(letter, measured // max(rest, 1)) for letter in letters})
        columns = found.get(canonical[-1], 0)
        if not fits or (self.columns and columns != len(self.columns)):
            shown = [letter for group in _groups(layout)[1:] for letter in group]
            sizes = ", ".join(f"{letter} = {known[letter]}" for letter in shown if letter in known)
            raise error(
                f"The output that is the '{role}' has shape (N, {', '.join(map(str, shape))}), which is not "
                f"{layout}{f' with {sizes}' if sizes else ''}.",
                hint=f"Write its axes in the network's order as layout of [outputs.{role}] in model.toml, with 1 for "
                f"an axis of one and brackets around joined ones; {FIELDS_DOC}.",
            )
        letters = [letter for group in groups for letter in group if letter.isalpha()]
        absent = [letter for letter in canonical[1:] if letter not in letters]
        order = ["N", *letters, *absent]
        split = tuple(found.get(letter, 1) for letter in order[1:])
        slices = []
        for axis, (begin, end) in self.slice.items():
            length = found.get(axis, 1)
            stop = end + length if end < 0 else end
            if not begin < stop <= length:
                raise error(
                    f"The output that is the '{role}' has {length} along {axis}; its slice is from {begin} to {end}.",
                    hint=f"Correct slice in [outputs.{role}] of model.toml.",
                )
            slices.append((canonical.index(axis), begin, stop))
        read = wanted_columns(decoder, self.columns) if columned else ()
        wanted = read if self.columns else ()
        return Steps(
            reshape=split,
            axes=tuple(order.index(axis) for axis in canonical),
            slices=tuple(slices),
            columns=tuple(self.columns.index(name) for name in wanted) if wanted != self.columns else None,
            activation=self.activation,
            activated=tuple(i for i, name in enumerate(read) if name == "score") if columned else None,
        )

    def _known(self, role: str, decoder: Decoder, keypoints: int, size: InputSize) -> dict[str, int]:
        """What the axes of the role measure before anything is cut, as far as the model says."""
        canonical, sizes = layouts_of(decoder)[role], sizes_of(decoder, role, keypoints, size)
        known = {
            axis: measured for axis, measured in zip(canonical[1:], sizes, strict=True) if isinstance(measured, int)
        }
        if self.columns:
            known[canonical[-1]] = len(self.columns)
        return {axis: measured for axis, measured in known.items() if axis not in self.slice or self._counts(axis)}

    def _counts(self, axis: str) -> bool:
        """Whether ``columns`` tells how many there are along an axis."""
        return axis == "C" and bool(self.columns)


@dataclass(frozen=True)
class View:
    """How a network takes the image and gives what the decoder reads.

    Attributes:
        input: The image.
        outputs: By role of the decoder; the outputs of a role that is missing here lie as the decoder reads them.
    """

    input: InputView = field(default_factory=InputView)
    outputs: Mapping[str, OutputView] = field(default_factory=dict)

    @property
    def is_canonical(self) -> bool:
        """Whether it changes nothing and chooses nothing."""
        return self == View()

    def output(self, role: str) -> OutputView:
        """Of one role."""
        return self.outputs.get(role, OutputView())

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that it has a table of; see `splite_deploy.decoders.heads`."""
        return tuple(role for role in HEADS if role in self.outputs)

    def check(self, decoder: Decoder, channels: int) -> None:
        """Compares it with the model.

        Raises:
            SpecError: A layout, a slice or columns do not fit, or the decoder reads no such role.
        """
        _check_layout(self.input.layout, IMAGE, "inputs.image.layout", {"C"} if channels == 1 else set())
        for role, one in self.outputs.items():
            if role not in layouts_of(decoder):
                raise SpecError(
                    f"Model spec: [outputs.{role}] is no output that the decoder '{decoder.type}' reads.",
                    hint=f"It reads: {', '.join(decoder.layouts)}. Any network may have {' and '.join(HEADS)}, too.",
                )
            one.check(role, decoder)
        named = [role for role, one in self.outputs.items() if one.source is not None]
        rest = [role for role in (*decoder.layouts, *self.heads) if role not in named]
        if named and rest:
            raise SpecError(
                f"Model spec: [outputs.{named[0]}] names its source, and [outputs.{rest[0]}] does not.",
                hint="Name the source of every output that is read, or of none; then their names or their order count.",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back to an equal view."""
        return to_plain(self)  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, unknown: Unknown = "refuse") -> View:
        """Reads a view from plain data.

        Raises:
            SpecError: A key is unknown or of the wrong type; the message names it.
        """
        return structure(cls, data, "view", unknown=unknown)


@dataclass(frozen=True)
class _Inputs:
    """``[inputs]`` of ``model.toml``."""

    image: InputView = field(default_factory=InputView)


@dataclass(frozen=True)
class _Tables:
    """The tables of ``model.toml`` that are the view."""

    inputs: _Inputs = field(default_factory=_Inputs)
    outputs: Mapping[str, OutputView] = field(default_factory=dict)


def view_of(tables: Mapping[str, Any]) -> View:
    """The view that ``inputs`` and ``outputs`` of ``model.toml`` say, of which both may be missing.

    Raises:
        SpecError: A key is unknown or of the wrong type; the message names it.
    """
    read = structure(_Tables, tables, "", every=True)
    return View(read.inputs.image, read.outputs)


def choose(outputs: Any, view: View, model: Model, error: type[SpliteError]) -> tuple[dict[str, Any], bool]:
    """The outputs of a network that are the decoder's and the model's heads, by role.

    Args:
        outputs: One tensor, or tensors in a dictionary, a list or an object with attributes, which may be nested. A
            tensor is what has a ``shape``.
        view: Names their sources. Where it does not they are those that have the roles' names, else their order counts.
        model: Whose roles.
        error: What to raise.

    Returns:
        The tensors, and whether they were matched by their order alone.

    Raises:
        error: One is missing, or there are more or fewer than the decoder reads and none is named.
    """
    roles, decoder = roles_of(model), model.decoder
    sources = {role: source for role in roles if (source := view.output(role).source) is not None}
    if sources:
        return {role: _follow(outputs, source, role, error) for role, source in sources.items()}, False
    held = parts_of(outputs)
    if set(roles) <= set(held) and all(_is_tensor(held[role]) for role in roles):
        return {role: held[role] for role in roles}, False
    if not held:
        raise error(
            f"The network gives {_said(outputs)}; the decoder '{decoder.type}' reads {len(roles)}: {', '.join(roles)}.",
            hint="Export it again, so that the graph names its outputs.",
        )
    if len(held) != len(roles) or not all(map(_is_tensor, held.values())):
        raise error(
            f"The network gives {_said(outputs)}; the decoder '{decoder.type}' reads {len(roles)}: {', '.join(roles)}.",
            hint="Choose the decoder that fits; or say in model.toml which of the outputs it reads, as in "
            f"[outputs.{roles[0]}] with source = {_example(outputs)}.",
        )
    if shared := [role for role in roles if role in held]:
        rest = next(role for role in roles if role not in held)
        raise error(
            f"The network's outputs are {', '.join(map(str, held))}: only {', '.join(shared)} is named by its role.",
            hint=f"Say in model.toml which one each is, as in [outputs.{rest}] with source = {_example(outputs)}; then "
            "all that the decoder reads need one.",
        )
    return dict(zip(roles, held.values(), strict=True)), True


def heads_in(outputs: Any, view: View, model: Model) -> tuple[str, ...]:
    """The heads of a network: those that its model has, and those that it names itself beside its decoder's roles.

    Args:
        outputs: See `choose`.
        view: Where it names a source, it names all that is read.
        model: The decoder's roles, and the heads that are known.
    """
    held, found = parts_of(outputs), set(model.heads)
    by_name = not any(one.source is not None for one in view.outputs.values()) and set(model.decoder.roles) <= set(held)
    if by_name and not isinstance(model.decoder, PeopleDecoder):
        found |= {role for role in HEADS if role in held and _is_one_number(held[role])}
    return tuple(role for role in HEADS if role in found)


def _is_one_number(value: Any) -> bool:
    """Whether it is a tensor of one number for each crop: what else has a head's name is something else."""
    shape = getattr(value, "shape", None)
    return shape is not None and len(shape) > 0 and all(size == 1 for size in shape[1:])


def no_tensor(name: str, role: str, error: type[SpliteError]) -> SpliteError:
    """What is said of a graph's output that is a sequence, a map or an optional value."""
    return error(
        f"The network's output '{name}', which is the '{role}', is no tensor: a sequence, a map or an optional value.",
        hint=f"Name another output as source of [outputs.{role}] in model.toml, or export it again with a tensor.",
    )


def _follow(outputs: Any, source: Source, role: str, error: type[SpliteError]) -> Any:
    """The tensor that a source leads to."""
    value, path = outputs, (source,) if isinstance(source, str | int) else source
    for depth, step in enumerate(path):
        held = parts_of(value)
        names = list(held)
        if isinstance(step, int) and -len(names) <= step < len(names):
            value = held[names[step]]
        elif step in held:
            value = held[step]
        else:
            where = "The network" if depth == 0 else f"{_path(path[:depth])} of the network"
            raise error(
                f"{where} gives {_said(value)}; there is no {_path((step,))}, which [outputs.{role}] names.",
                hint=f"Correct source in [outputs.{role}] of model.toml.",
            )
    if not _is_tensor(value):
        raise error(
            f"The source of [outputs.{role}], {_path(path)}, is no tensor: it holds {_said(value)}.",
            hint=f"Go on with the path, as in source = {_example(value, path)}.",
        )
    return value


def parts_of(value: Any) -> dict[Any, Any]:
    """What a value holds, by name or place; a tensor holds itself."""
    if _is_tensor(value):
        return {0: value}
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "_asdict"):  # a named tuple
        return dict(value._asdict())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return dict(enumerate(value))
    found = {name: held for name, held in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    # mmengine's data elements keep their fields under a leading underscore and give them as properties
    keys = getattr(value, "keys", None)
    return {name: getattr(value, name) for name in keys()} if not found and callable(keys) else found


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape")


def _said(value: Any) -> str:
    """What a network gave, as text."""
    held = parts_of(value)
    if not held:
        return f"a {type(value).__name__} without outputs"
    if _is_tensor(value):
        return "1 output"
    names = ", ".join(map(str, held)) if any(isinstance(name, str) for name in held) else ""
    return f"{len(held)} output{'s'[: len(held) != 1]}" + (f": {names}" if names else "")


def _path(steps: Sequence[str | int]) -> str:
    return " of ".join(f"'{step}'" if isinstance(step, str) else f"output {step}" for step in reversed(steps))


def _is_wide(value: Any) -> bool:
    """Whether it is a tensor with axes behind the batch, or holds one."""
    if _is_tensor(value):
        return len(value.shape) > 1
    return any(map(_is_wide, parts_of(value).values()))


def _example(value: Any, path: Sequence[str | int] = ()) -> str:
    """A source that leads to a tensor of a value, as TOML: to the last, of those that have axes behind the batch."""
    steps: list[str | int] = list(path)
    while not _is_tensor(value) and (held := parts_of(value)):
        name, value = max(enumerate(held.items()), key=lambda one: (_is_wide(one[1][1]), one[0]))[1]
        steps.append(name if isinstance(name, str) else -1)
    shown = [f'"{step}"' if isinstance(step, str) else str(step) for step in steps]
    return shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]"


def has_columns(decoder: Decoder, role: str) -> bool:
    """Whether the last axis of a role are columns that have names."""
    return layouts_of(decoder)[role] == "NKC"


def wanted_columns(decoder: Decoder, given: tuple[Column, ...] = ()) -> tuple[Column, ...]:
    """The columns of coordinates that a decoder reads, in its order.

    Args:
        decoder: It may name its ``columns``; otherwise it reads x and y, and a score where there is one.
        given: What the network gives.
    """
    own: tuple[Column, ...] | None = getattr(decoder, "columns", None)
    return own or (("x", "y", "score") if "score" in given else ("x", "y"))


def _groups(layout: str) -> list[str]:
    """The axes of a layout in the network's order, each as its letters; ``1`` is an axis of one."""
    return [part.strip("()") for part in _GROUP.findall(layout)]


def _in_canonical_letters(layout: str, joined: Mapping[str, str]) -> str:
    """A layout where axes that the decoder reads as one are one; see `Decoder.joined`."""
    for axis, both in joined.items():
        layout = layout.replace(f"({both})", axis).replace(both, axis)
    return layout


def _joined(
    layout: str, shape: tuple[int, ...], joined: Mapping[str, str]
) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """A shape where axes that the decoder reads as one are one, and what those that were apart measured."""
    groups, apart = _groups(layout)[1:], {}
    for axis, both in joined.items():
        for at in range(len(shape) - 1):
            if groups[at : at + 2] == list(both):
                apart[axis] = shape[at : at + 2]
                groups[at : at + 2] = [axis]
                shape = (*shape[:at], math.prod(apart[axis]), *shape[at + 2 :])
                break
    return shape, apart


def _check_layout(
    layout: str,
    canonical: str,
    where: str,
    optional: set[str] | None = None,
    joined: Mapping[str, str] | None = None,
) -> None:
    """Refuses a layout that is not made of the letters of the canonical one.

    Args:
        layout: The layout.
        canonical: The letters.
        where: Names the field.
        optional: Letters that may be missing; None for all but the batch.
        joined: See `Decoder.joined`.
    """
    joined, written = joined or {}, layout
    layout = _in_canonical_letters(written, joined)
    groups = _groups(layout)
    for axis, (slower, faster) in ((axis, tuple(both)) for axis, both in joined.items()):
        if {slower, faster} & set("".join(groups)):
            raise SpecError(
                f"Model spec: {where} is {written!r}, where {faster} does not follow {slower}.",
                hint=f"The decoder reads both as one axis, all {faster} of the first {slower}, then those of the next: "
                f'write "{canonical.replace(axis, slower + faster)}" if the network gives them so, or else transpose '
                "its output before the end of the network.",
            )
    letters = [letter for group in groups for letter in group if letter.isalpha()]
    needed = set("N") if optional is None else set(canonical) - optional
    fits = (
        "".join(_GROUP.findall(layout)) == layout
        and groups[:1] == ["N"]
        and len(set(letters)) == len(letters)
        and needed <= set(letters) <= set(canonical)
    )
    if not fits:
        raise SpecError(
            f"Model spec: {where} is {written!r}.",
            hint=f"Write N first, then the letters of {canonical}, each once and in the network's order, with 1 for an "
            f'axis of one and brackets around joined axes, as in "N({canonical[1:3]}){canonical[3:]}"; {FIELDS_DOC}.',
        )


DTYPES: tuple[Dtype, ...] = get_args(Dtype)
"""The types that a network may take the image in."""
