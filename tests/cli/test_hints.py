"""Options that messages advise exist: what a hint tells to type is compared with what the commands take."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from splite_deploy.cli import main
from splite_deploy.spec import PRECISIONS

PACKAGE = Path(__file__).parents[2] / "splite_deploy"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?![\w-]*=)")
COMMAND = re.compile(r"(?:'|: )splite-deploy ([a-z][a-z0-9-]*)")
ELSEWHERE = {"--force-reinstall", "--gpus", "--no-deps", "--runtime", "--tflite"}
"""Options of pip, docker and tf2onnx that hints name."""


def options(command: click.Command) -> set[str]:
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts)}


def texts(node: ast.AST) -> str:
    """The text of an expression, with the parts that are computed left out."""
    return "".join(one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str))


def hints(file: Path) -> Iterator[tuple[int, str]]:
    """Lines and texts of hints: arguments of that name, constants, and what functions give that are named so."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield from ((node.lineno, texts(one.value)) for one in node.keywords if one.arg == "hint")
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if any("hint" in name.lower() for name in names):
                yield node.lineno, texts(node.value)
        elif isinstance(node, ast.FunctionDef) and ("hint" in node.name or node.name in ("likely_cause", "choose")):
            yield from ((one.lineno, texts(one)) for one in ast.walk(node) if isinstance(one, ast.Return))


FILES = sorted(PACKAGE.rglob("*.py"))


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
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
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
