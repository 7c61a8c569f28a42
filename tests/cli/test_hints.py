"""What hints advise exists: options, commands, Python names, files, extras and fields, and command lines can be typed.

Hints are found in the source: every argument ``hint``, and what the names and functions in it stand for.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from splite_deploy.cli import main
from splite_deploy.runtime.backends import all_backends
from splite_deploy.spec import PRECISIONS

PACKAGE = Path(__file__).parents[2] / "splite_deploy"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?![\w-]*=)")
COMMAND = re.compile(r"(?:'|: )splite-deploy ([a-z][a-z0-9-]*)")
ELSEWHERE = {
    *("--force-reinstall", "--gpus", "--head", "--init", "--no-deps", "--out", "--resources", "--runtime", "--tflite"),
}
"""Options of pip, docker, tf2onnx, ray and of a user's training that hints name."""


def options(command: click.Command) -> set[str]:
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts)}


def texts(node: ast.AST) -> str:
    """The text of an expression, with the parts that are computed left out."""
    return "".join(one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str))


FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
_SECOND = frozenset({"Problem", "_part", "Metric"})
"""What these are called with second is a hint, too."""


def advice(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions of hints in a call."""
    if isinstance(node, ast.Call):
        yield from (one.value for one in node.keywords if one.arg in ("hint", "needs"))
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in _SECOND:
            yield from node.args[1:2]


def alternatives(expression: ast.expr) -> Iterator[ast.expr]:
    """What an expression of a text may be, or is made of."""
    inside: list[ast.expr] = []
    if isinstance(expression, ast.IfExp):
        inside = [expression.body, expression.orelse]
    elif isinstance(expression, ast.BinOp):
        inside = [expression.left, expression.right]
    elif isinstance(expression, ast.BoolOp):
        inside = expression.values
    elif isinstance(expression, ast.JoinedStr):
        inside = [one.value for one in expression.values if isinstance(one, ast.FormattedValue)]
    else:
        yield expression
    for one in inside:
        yield from alternatives(one)


@dataclass
class StandIns:
    """What is given as hints: names of constants anywhere, of variables by their file, and of functions."""

    constants: set[str] = field(default_factory=set)
    variables: set[tuple[Path, str]] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)


@functools.cache
def stand_ins() -> StandIns:
    found = StandIns()
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            for expression in advice(node):
                for one in alternatives(expression):
                    if isinstance(one, ast.Call):
                        name = getattr(one.func, "id", getattr(one.func, "attr", ""))
                        found.functions |= set() if hasattr(str, name) else {name}
                    elif isinstance(one, ast.Name):
                        found.variables.add((file, one.id))
                        found.constants |= {one.id} if one.id.isupper() else set()
    return found


def hints(file: Path) -> Iterator[tuple[int, str]]:
    """Lines and texts of hints: arguments of that name, what they stand for, what functions give that are named so."""
    for node in ast.walk(TREES[file]):
        yield from ((node.lineno, texts(one)) for one in advice(node))  # type: ignore[attr-defined]
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            is_text = isinstance(node.value, ast.Constant | ast.JoinedStr | ast.IfExp | ast.BinOp | ast.BoolOp)
            known_as = {
                name for name in names if name in stand_ins().constants or (file, name) in stand_ins().variables
            }
            if any("hint" in name.lower() for name in names) or (is_text and known_as):
                yield node.lineno, texts(node.value)
        elif isinstance(node, ast.FunctionDef) and (
            "hint" in node.name or node.name in ("likely_cause", "choose") or node.name in stand_ins().functions
        ):
            yield from ((one.lineno, texts(one)) for one in ast.walk(node) if isinstance(one, ast.Return))


def test_hints_are_found() -> None:
    found = [text for file in FILES for _, text in hints(file)]
    assert len(found) > 200 and sum("--" in text for text in found) > 50
    assert any("--max-shift-px (--max-shift-mm for the depth)" in text for text in found)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_what_a_hint_advises_exists(file: Path) -> None:
    every = set[str]().union(*(options(command) for command in main.commands.values()))
    exporting = file.is_relative_to(PACKAGE / "export") or file == PACKAGE / "cli" / "export.py"
    for line, text in hints(file):
        commands = COMMAND.findall(text)
        assert set(commands) <= set(main.commands), f"{file}:{line}: {text}"
        own = options(main.commands["export"]) if exporting and not commands else every
        shared = {name for name in OPTION.findall(text) if not any(known.startswith(f"{name}-") for known in own)}
        assert shared <= own | ELSEWHERE, f"{file}:{line}: {shared - own}"
        assert set(re.findall(r"-p (fp\w+|int\w+)", text)) <= set(PRECISIONS), f"{file}:{line}: {text}"


def typed(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Lines and constant words of the commands that messages tell to type."""
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("command", "typed"):
            words = [one for one in node.args if isinstance(one, ast.Constant)]
            yield node.lineno, [str(one.value) for one in words]


def test_commands_that_messages_tell_to_type_exist() -> None:
    found = [(file, line, words) for file in FILES for line, words in typed(file) if words]
    assert len(found) > 12
    for file, line, words in found:
        assert words[0] in main.commands, f"{file}:{line}"
        given = {word for word in words if word.startswith("-")}
        assert given <= options(main.commands[words[0]]), f"{file}:{line}"


def test_paths_in_commands_are_quoted() -> None:
    """A command of ours with a value inside is made by `command`, which quotes it."""
    loose = re.compile(rf"splite-deploy ({'|'.join(main.commands)}) [^\"]*\{{")
    for file in FILES:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            assert not loose.search(line), f"{file}:{number}: {line}"


def test_only_the_console_prints() -> None:
    """What shows text of others goes through one place, which makes it safe."""
    printing = re.compile(r"click\.echo|click\.secho|(?<![\w.])Console\(|sys\.std(out|err)\.write")
    for file in sorted((PACKAGE / "cli").rglob("*.py")):
        if file.name != "console.py":
            assert not printing.search(file.read_text(encoding="utf-8")), file
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert file.name == "plain_table.py" or not re.search(r"rich\.table|rich\.markup", text), file


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_what_a_hint_tells_to_run_can_be_typed(file: Path) -> None:
    lacking = [name for name, one in main.commands.items() if any(p.required for p in one.params)]
    for line, text in hints(file):
        for name in re.findall(r"(?:Run|run|with|;|^) ?'splite-deploy ([a-z-]+)'", text):
            assert name not in lacking or name in ("export", "init", "bench"), f"{file}:{line}: it needs an argument"
        for name in re.findall(r"^'splite-deploy ([a-z-]+)' (?:says|lists)", text):
            assert name not in lacking, f"{file}:{line}: it needs an argument"


# --- every error has advice ---


@functools.cache
def error_names() -> frozenset[str]:
    """The classes that are errors of this package, by what they derive from."""
    bases = {
        node.name: {getattr(base, "id", getattr(base, "attr", "")) for base in node.bases}
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {"SpliteError"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return frozenset(found)


_OF_THEIR_OWN = frozenset({"PartialExportError", "FieldsError", "ReadError", "MissingError", "MalformedError"})
"""They bring a hint, or make one of what they are given."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_every_error_that_is_raised_says_what_to_do(file: Path) -> None:
    for node in ast.walk(TREES[file]):
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
            continue
        if getattr(node.exc.func, "id", "") in error_names() - _OF_THEIR_OWN:
            given = [one.value for one in node.exc.keywords if one.arg == "hint"]
            assert given, f"{file}:{node.lineno}: {ast.unparse(node.exc)}"
            assert not (isinstance(given[0], ast.Constant) and not given[0].value), f"{file}:{node.lineno}"


def test_errors_are_found() -> None:
    raised = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    called = [one for one in raised if getattr(getattr(one.exc, "func", None), "id", "") in error_names()]
    assert len(error_names()) > 20 and len(called) > 500


# --- what hints name ---


@dataclass
class Known:
    """What a hint may name of this package.

    Attributes:
        words: Every identifier.
        members: What each class has, with what it inherits.
        bases: What it derives from.
    """

    words: set[str] = field(default_factory=set)
    members: dict[str, set[str]] = field(default_factory=dict)
    bases: dict[str, set[str]] = field(default_factory=dict)

    def has(self, owner: str, member: str) -> bool:
        """Whether a class has a member, itself or from another."""
        inherited = self.bases.get(owner, set()) & self.members.keys()
        return member in self.members[owner] or any(self.has(base, member) for base in inherited)


@functools.cache
def known() -> Known:
    found = Known()
    for tree in TREES.values():
        for node in ast.walk(tree):
            for key in ("id", "attr", "arg", "name"):
                found.words.add(str(getattr(node, key, "")))
            if isinstance(node, ast.ClassDef):
                own = found.members.setdefault(node.name, set())
                found.bases[node.name] = {getattr(base, "id", "") for base in node.bases}
                for one in ast.walk(node):
                    if isinstance(one, ast.FunctionDef):
                        own.add(one.name)
                    elif isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                        own.add(one.target.id)
                    elif isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == "self":
                        own.add(one.attr)
                    elif isinstance(one, ast.arg):
                        own.add(one.arg)
    return found


PROPER = frozenset({
    "OpenCV", "GStreamer", "TensorFlow", "TensorRT", "TorchScript", "LiteRT", "JetPack", "QuantFormat", "TrainingMode",
    "QuantizeLinear", "DequantizeLinear", "FFmpeg", "OpsSet", "DynamicQuantizeLinear", "ExportedProgram", "PyTorch",
    "SafeTensors", "WholeBody",
})  # fmt: skip
"""Names that are not of this package."""
OTHERS = frozenset({"quant_format", "dynamic_axes", "dynamic_shapes", "state_dict", "weight_norm", "benchmark_model"})
"""Names of arguments, methods and programs of other packages."""
LIBRARIES = ("torch", "cv2", "onnx", "queue", "time", "tf", "splite_deploy")
TABLES = {"arch_args", "decoder", "input", "inputs", "limits", "outputs", "skeleton"}
FILE_NAMES = {
    "devices.toml",
    "arch.py",
    "labels.json",
    "manifest.json",
    "model.toml",
    "report.json",
    "samples.py",
    "train.py",
    "file.py",
    "person_keypoints_val2017.json",
}


def without_quotes_of_ours(text: str) -> str:
    """A hint without command lines, which have a test of their own."""
    return re.sub(r"splite-deploy [^']*'?", " ", text)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_names_in_hints_are_names_of_something(file: Path) -> None:
    for line, text in hints(file):
        where = f"{file}:{line}: {text}"
        rest = without_quotes_of_ours(text)
        for dotted in re.findall(rf"(?<![\w.])(?:{'|'.join(LIBRARIES)})(?:\.[A-Za-z_]\w*)+", rest):
            assert dotted.startswith("tf.") or is_there(dotted), where
            rest = rest.replace(dotted, " ")
        for owner, member in re.findall(r"\b([A-Z][a-z]\w*)\.([a-z_]\w*)", rest):
            if owner in known().members:
                assert known().has(owner, member), f"{owner}.{member}: {where}"
        for owner, given in re.findall(r"\b([A-Z][a-z]\w*)\(([a-z_]+)=", rest):
            assert known().has(owner, given), f"{owner}({given}=): {where}"
        for name in re.findall(r"\b(?:[A-Z][a-z0-9]+){2,}\b", rest):
            assert name in known().members or name in PROPER, f"{name}: {where}"
        for name in re.findall(r"(?<![\w.\-/])[a-z]+(?:_[a-z0-9]+)+\b(?![\-/]|\.json)", rest):
            assert name in known().words | OTHERS, f"{name}: {where}"


def is_there(dotted: str) -> bool:
    """Whether a name of a package leads to something; that of one that is not installed is believed."""
    parts = dotted.split(".")
    if find_spec(parts[0]) is None:
        return True
    found: Any = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[:depth]))
            except ModuleNotFoundError:
                return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_extras_files_tables_and_backends_in_hints_exist(file: Path, root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line, text in hints(file):
        where = f"{file}:{line}: {text}"
        assert set(re.findall(r"splite-deploy\[([\w-]+)\]", text)) <= project["optional-dependencies"].keys(), where
        tables = set(re.findall(r"(?<!\w)\[([a-z_]+)(?:\.[\w.]*)?\](?!\w)", text))
        assert tables <= TABLES, f"{tables - TABLES}: {where}"
        for name in re.findall(r"[\w/.-]*\w\.(?:md|toml|json|py)\b", text):
            exists = (root / name).is_file() if "/" in name else name in FILE_NAMES
            assert exists, f"{name}: {where}"
        assert set(re.findall(r"(?<![\w-])-b ([a-z]+)\b", text)) <= BACKENDS, where
        for variable in re.findall(r"\bSPLITE_[A-Z0-9_]+\b", text):
            assert any(f'"{variable}"' in one.read_text(encoding="utf-8") for one in FILES), where


BACKENDS = {name for one in all_backends().values() for name in (one.name, *one.aliases)}


# --- command lines ---


def parse(words: list[str]) -> None:
    """Reads a command line of ours as click does, without converting what stands for a file or a number.

    Raises:
        click.UsageError: An option is unknown, a value or an argument is missing, or a choice is none.
    """
    name, *arguments = words
    assert name in main.commands, f"there is no command {name}"
    command = main.commands[name]
    with click.Context(command, info_name=name) as context:
        given, rest, _ = command.make_parser(context).parse_args(list(arguments))
        if rest:
            raise click.UsageError(f"{rest} is too much")
        for parameter in command.params:
            value = given.get(str(parameter.name))
            missing = value is None or repr(value) in ("()", "Sentinel.UNSET") or value == ()
            if missing and parameter.required:
                raise click.MissingParameter(ctx=context, param=parameter)
            if isinstance(parameter.type, click.Choice) and isinstance(value, str | list | tuple):
                for one in [value] if isinstance(value, str) else value:
                    if one != ANYTHING:
                        parameter.type.convert(one, parameter, context)


ANYTHING = "X"
"""Stands for what is computed."""


def command_lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Words of the commands that `splite_deploy.text.command` makes; what is computed is `ANYTHING`.

    Of a list that is computed nothing is known: it is left out, or stands for the value of the option before it.
    """
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("command", "typed"):
            told: list[str] = []
            for one in node.args:
                if not isinstance(one, ast.Starred) or (told and told[-1].startswith("-")):
                    told.append(str(one.value) if isinstance(one, ast.Constant) else ANYTHING)
            if node.args and isinstance(node.args[0], ast.Constant):
                yield node.lineno, told


def quoted_lines(text: str) -> list[list[str]]:
    """The full command lines in a text: those with arguments, between quotes or behind a colon."""
    found = re.findall(r"'splite-deploy ([^']+)'|: splite-deploy ([^,;]+?)(?:\.(?:\s|$)|$|[,;])", text)
    lines = [shlex.split(first or second) for first, second in found]
    return [words for words in lines if len(words) > 1 and ".." not in "".join(words) and "-h" not in words]


def test_command_lines_in_messages_can_be_typed() -> None:
    found = 0
    for file in FILES:
        quoted = [(line, words) for line, text in hints(file) for words in quoted_lines(text)]
        for line, words in (*command_lines(file), *quoted):
            try:
                parse(words)
            except click.UsageError as err:
                pytest.fail(f"{file}:{line}: splite-deploy {' '.join(words)}: {err.format_message()}")
            found += 1
    assert found > 20


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("verify", "Missing argument 'BUNDLE|FILE'"),
        ("verify a --precison fp32", "No such option"),
        ("export a -o b -p fp8", "'fp8' is not one of"),
        ("bench a b c --threads", "requires an argument"),
        ("compile", "Missing argument"),
    ],
)
def test_a_wrong_command_line_is_found(line: str, message: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parse(line.split())
    assert message in caught.value.format_message()


def test_a_command_that_is_none_is_found() -> None:
    with pytest.raises(AssertionError, match="there is no command veryfy"):
        parse(["veryfy", "a"])


def test_names_that_are_wrong_are_found() -> None:
    assert known().has("PoseEstimator", "detect") and not known().has("PoseEstimator", "find")
    assert is_there("splite_deploy.runtime.preprocess.Preprocessor.crop")
    assert not is_there("splite_deploy.runtime.preprocess.Preprocessor.cut")
    assert "rotate_by" in known().words and "rotated_by" not in known().words
