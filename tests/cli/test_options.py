"""What every command's options share: one value or several, and one meaning of --json."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from splite_deploy import doctor
from splite_deploy.cli import main
from splite_deploy.cli.app import Command, json_option
from splite_deploy.cli.console import STDOUT, put_json
from splite_deploy.errors import OutputError

OPTIONS = [
    pytest.param(name, option, id=f"{name} {option.opts[0]}")
    for name, command in main.commands.items()
    for option in command.params
    if isinstance(option, click.Option)
]
SAMPLES = {"integer": "12", "integer range": "3", "float": "1.5", "float range": "1.5"}


def values(option: click.Option) -> list[str]:
    """Two values that the option takes."""
    choices = list(getattr(option.type, "choices", ()))
    return [*choices, *choices][:2] or [SAMPLES.get(option.type.name, name) for name in ("0,1", "0,2")]


def test_every_command_is_asked() -> None:
    known = [
        "bench",
        "calibrate",
        "compact",
        "compile",
        "completion",
        "cpp",
        "delta",
        "demo",
        "doctor",
        "export",
        "fit",
        "fleet",
        "init",
        "inspect",
        "install",
        "run",
        "setup-tflite",
        "verify",
    ]
    assert known == sorted(main.commands)
    for command in main.commands.values():
        assert isinstance(command, Command)
        names = [parameter.name for parameter in command.params]
        assert len(names) == len(set(names))  # no option writes over another


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_no_option_keeps_the_last_of_two_values_silently(
    name: str, option: click.Option, splite: Callable[..., Result]
) -> None:
    first, second = values(option)
    if option.is_flag:  # twice is what once is, and nothing takes it back
        context = main.commands[name].make_context(name, [option.opts[0]] * 2, resilient_parsing=True)
        assert context.params[str(option.name)] is True and not option.secondary_opts
    elif option.multiple:
        given = [option.opts[0], first, option.opts[-1], second]
        context = main.commands[name].make_context(name, given, resilient_parsing=True)
        assert tuple(map(str, context.params[str(option.name)])) == (first, second)
        assert "several times" in str(option.help)
    else:
        for other in {option.opts[0], option.opts[-1]}:
            result = splite(name, option.opts[0], *[first] * option.nargs, other, *[second] * option.nargs)
            assert result.exit_code == 2, result.output
            assert result.stderr.endswith("It takes one value and was given 2 times. Give it once.\n")
            assert option.opts[0] in result.stderr


def test_the_message_names_the_option(splite: Callable[..., Result]) -> None:
    result = splite("run", "x.splite", "x.png", "-p", "fp32", "--precision", "int8")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "Error: Invalid value for '--precision' / '-p': It takes one value and was given 2 times. Give it once."
    )


# --- JSON ---


def test_every_command_has_one_json_option() -> None:
    for name, command in main.commands.items():
        if name == "completion":  # whose result is a script
            continue
        (option,) = (parameter for parameter in command.params if "--json" in parameter.opts)
        assert isinstance(option, click.Option)
        assert (option.is_flag, option.metavar, option.name) == (False, "FILE", "json_file"), name
        assert str(option.help).endswith("FILE may be -, for standard output without tables.")


def test_a_file_of_json_is_whole_or_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.json"
    put_json(file, {"a": [1.5, None]})
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": [1.5, None]}
    put_json(None, {})
    assert capsys.readouterr().out == ""
    put_json(STDOUT, [1])
    assert json.loads(capsys.readouterr().out) == [1]
    with pytest.raises(TypeError):
        put_json(file, {"a": object()})
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": [1.5, None]}
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_missing_is_told_before_the_work(tmp_path: Path) -> None:
    worked = []

    @click.command(cls=Command)
    @json_option("Write it.")
    def work(json_file: Path | None) -> None:
        worked.append(json_file)

    with pytest.raises(OutputError, match=r"Cannot write .*none/a\.json: No such file or directory"):
        work.main(["--json", str(tmp_path / "none" / "a.json")], standalone_mode=False)
    work.main(["--json", str(tmp_path / "a.json")], standalone_mode=False)
    work.main(["--json", "-"], standalone_mode=False)
    work.main([], standalone_mode=False)
    assert worked == [tmp_path / "a.json", STDOUT, None]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("verify", "{bundle}"), "difference to"),
        (("inspect", "{bundle}"), "artifacts"),
        (("doctor",), "splite-deploy"),
        (("bench", "{bundle}", "--frames", "10", "--warmup", "0"), "End to end"),
    ],
)
def test_json_goes_to_a_file_beside_the_table_or_stands_alone(
    arguments: tuple[str, ...],
    shown: str,
    tiny_bundle: Path,
    tmp_path: Path,
    splite: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unprobed = functools.partial(doctor.diagnose, probe=lambda module: "")  # each probe is a process of seconds
    monkeypatch.setattr(doctor, "diagnose", unprobed)
    command = [part.format(bundle=tiny_bundle) for part in arguments]
    file = tmp_path / "a.json"
    beside = splite(*command, "--json", file)
    assert beside.exit_code == 0, beside.output
    assert shown in beside.stdout
    alone = splite(*command, "--json", "-")
    assert alone.exit_code == 0, alone.output
    assert not Path("-").exists()
    written, printed = json.loads(file.read_text(encoding="utf-8")), json.loads(alone.stdout)
    assert type(written) is type(printed) and len(written) == len(printed) > 0
    if isinstance(written, dict):
        assert written.keys() == printed.keys()
    if arguments[0] == "inspect":
        assert written == printed


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "x", "--duration"),
        ("bench", "x", "--min-seconds"),
        ("export", "x", "-o", "y", "--max-shift-px"),
        ("compact", "x", "-o", "y", "--ratio"),
        ("run", "x", "y", "--bone-length-mm"),
    ],
)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_not_finite(splite: Callable[..., Result], arguments: tuple[str, ...], value: str) -> None:
    done = splite(*arguments, value)
    assert done.exit_code == 2
    assert "is no finite number" in done.stderr or "is not in the range" in done.stderr


@pytest.mark.parametrize("value", ["-1", "1e30"])
def test_durations_that_nobody_waits_for(splite: Callable[..., Result], value: str) -> None:
    done = splite("bench", "x", "--duration", value)
    assert done.exit_code == 2 and "is not in the range 0<=x<=100000000" in done.stderr


def test_half_of_a_character_names_no_file(splite: Callable[..., Result]) -> None:
    """No command line holds one on Linux; on Windows one may."""
    done = splite("bench", "--compare", "a.jsonl", "b.jsonl", "--html=\ud800")
    assert done.exit_code == 2 and "No file can be called \\ud800: it has half of a character." in done.stderr


@pytest.mark.parametrize(
    "command", ["export x", "compact x --speed-up 2", "calibrate x --images .", "init x --arch x:y --input 8x8"]
)
def test_what_is_no_text_does_not_go_to_standard_output(
    command: str, splite: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").touch()
    result = splite(*command.split(), "-o", "-")
    assert result.exit_code == 2, result.output
    assert "Invalid value for '--output' / '-o': It does not go to standard output: name it." in result.output
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    "typed",
    [
        ("demo", ""),
        ("demo", "-o", ""),
        ("run", "hand.splite", "a.png", ""),
        ("run", "", "a.png"),
        ("bench", ""),
        ("inspect", ""),
        ("verify", "a.splite", "--json", ""),
        ("export", "a.pt", "-o", ""),
    ],
    ids=" ".join,
)
def test_an_empty_name_is_not_the_current_folder(
    typed: tuple[str, ...], splite: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = splite(*typed)
    assert done.exit_code == 2 and "It is empty: name a file or a folder." in done.stderr
    assert not list(tmp_path.iterdir())
