"""``model.toml`` for another size of the input: a text, so that all else stays as its author wrote it."""

from __future__ import annotations

import re
from pathlib import Path

from splite_deploy.errors import SpecError
from splite_deploy.spec import load_model_toml

_TABLE = re.compile(r"^\s*\[+\s*([^\[\]]+?)\s*\]+\s*(?:#.*)?$")
_SIDE = re.compile(r"^(\s*(height|width)\s*=\s*)\d+")
_CODE = re.compile(r"""^(\s*(?:arch|samples)\s*=\s*)(["'])([^"':]+):([^"']+)\2""")


def sized_model(model: Path, height: int, width: int, target: Path) -> None:
    """Writes a model spec for another size to another folder.

    Ranges for int8 are left out, since they are of other weights and crops; paths of code become absolute.

    Args:
        model: The model spec.
        height: Pixels.
        width: Pixels.
        target: What to write.

    Raises:
        SpecError: The model is wrong, or cannot have this size.
    """
    load_model_toml(model)
    lines: list[str] = []
    table, opened, sides = "", 0, {"height": height, "width": width}
    for line in model.read_text(encoding="utf-8").splitlines():
        if found := _TABLE.match(line):
            table = found[1]
        if opened or (table == "" and re.match(r"\s*calibration\s*=", line)):
            opened += line.count("[") - line.count("]")  # a list may have several lines
            continue
        if table == "" and (code := _CODE.match(line)):
            place = (model.parent / code[3]).resolve()
            line = f'{code[1]}"{place.as_posix()}:{code[4]}"'
        if table == "input" and (side := _SIDE.match(line)):
            line = _SIDE.sub(f"{side[1]}{sides.pop(side[2])}", line, count=1)
        lines.append(line)
    if sides:
        raise SpecError(
            f"{model} does not write {' and '.join(sides)} of [input] in lines of their own.",
            hint="Write them so: height = 128.",
        )
    target.write_text("\n".join([*lines, ""]), encoding="utf-8")
    spec, _ = load_model_toml(target)
    assert (spec.input.height, spec.input.width) == (height, width)
