"""The group of commands, its one error boundary, and options that several commands share."""

from __future__ import annotations

import errno
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from splite_deploy import interruption
from splite_deploy.cli.console import STDOUT, fail, put_notes, set_volume
from splite_deploy.cli.inputs import bundle_at, check_places, is_bundle, line_of, read_along
from splite_deploy.cli.streams import prepare_streams
from splite_deploy.errors import FILES_HINT, MissingDependencyError, OptionError, OutputError, SpliteError
from splite_deploy.files import TMP_HINT, check_outputs, check_writable, matched, writing
from splite_deploy.runtime.backends import all_backends
from splite_deploy.runtime.backends.base import Backend, BackendOptions, OptionHelp, offered
from splite_deploy.runtime.io.notes import collecting_notes
from splite_deploy.spec import PRECISIONS
from splite_deploy.text import shown, without_secrets
from splite_deploy.version import __version__


class _FilePath(click.Path):
    """A path. An empty one is refused: it comes of a variable that is not set, and pathlib takes it for this folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if isinstance(value, str):
            not_empty(ctx, param, value)
        return super().convert(value, param, ctx)


class _BundlePath(_FilePath):
    """A bundle. A store stands for its current one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        path = super().convert(value, param, ctx)
        return path if ctx is not None and ctx.resilient_parsing else bundle_at(path)


def not_empty(context: click.Context | None, parameter: click.Parameter | None, value: _Named) -> _Named:
    """Refuses an empty name, alone or among several, of a file, folder or camera."""
    if "" in ((value,) if isinstance(value, str) else value or ()):
        raise click.BadParameter("It is empty: name a file or a folder.", context, parameter)
    return value


FilePath = _FilePath()
BundlePath = _BundlePath()
Images = click.IntRange(1, 10_000)
"""Numbers of images that are held in memory at once: 10,000 crops of 256 x 256 take 2 GB."""
CommandFunction = Callable[..., Any]
_Named = TypeVar("_Named", str, tuple[str, ...], None)

_EXTRAS = {
    **dict.fromkeys(("torch", "onnx", "onnx_ir", "onnxsim", "onnxscript", "safetensors"), "export"),
    "ai_edge_quantizer": "tflite",
}

TYPED = "splite_deploy.typed"
"""Where a context keeps what was typed for each parameter, before it is converted."""

_SPENT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), TMP_HINT),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), FILES_HINT),
}
"""What can run out at any place, also where another package writes, and what to do then."""


class Command(click.Command):
    """Refuses what click takes: an option of one value that is given twice, numbers that are not finite.

    Args:
        default_output: Where the result goes without ``--output``, from the values of all parameters.
    """

    def __init__(
        self, *args: Any, default_output: Callable[[Mapping[str, Any]], Path] | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._default_output = default_output
        self.params += _volume_options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the command line."""
        if ctx.resilient_parsing:  # a line that is being typed, for a shell to complete
            return super().parse_args(ctx, args)
        ctx.meta[TYPED], _, given = self.make_parser(ctx).parse_args(list(args))
        for option, times in Counter(given).items():
            if isinstance(option, click.Option) and not (option.multiple or option.is_flag) and times > 1:
                message = f"It takes one value and was given {times} times. Give it once."
                raise click.BadParameter(message, ctx, option)
        try:
            rest = super().parse_args(ctx, args)
        except UnicodeEncodeError as err:  # of click, which looks for the file
            raise click.UsageError(
                f"No file can be called {shown(err.object)}: it has half of a character.", ctx
            ) from err
        for parameter in self.params:
            value = ctx.params.get(parameter.name or "")
            if isinstance(value, float) and not math.isfinite(value):
                raise click.BadParameter(f"{value} is no finite number.", ctx, parameter)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command, unless it would write over what it reads."""
        before = ctx.find_root().params
        volume = {name: ctx.params.pop(name) or bool(before.get(name)) for name in ("quiet", "verbose")}
        set_volume(**volume)
        inputs: list[tuple[str, Path]] = []
        outputs: list[tuple[str, Path]] = []
        for parameter in self.params:
            value, is_argument = ctx.params.get(name := parameter.name or ""), isinstance(parameter, click.Argument)
            if name == "compare" and value is not None:
                value = tuple(line_of(one)[0] for one in value)
            if name == "output" and value is None and self._default_output is not None:
                value = self._default_output(ctx.params)
            if name == "output" and value == STDOUT:
                raise click.BadParameter("It does not go to standard output: name it.", ctx, parameter)
            paths = value if isinstance(value, tuple) else (value,)
            if name in _NAMED_FILES:
                paths = tuple(_named_file(name, one) for one in paths)
            called = name.upper() if is_argument else max(parameter.opts, key=len)
            wanted = outputs if name in OUTPUTS else inputs
            wanted += [(called, path) for path in paths if isinstance(path, Path) and path != STDOUT]
        if outputs:
            inputs = [(called, one) for called, path in inputs for one in matched(path)]
        check_outputs(inputs, outputs, is_bundle)
        beside = read_along(inputs, outputs, made=_MADE.get(self.name or "", ""))
        check_outputs([(f"{called} (beside it)", path) for called, path in beside], outputs)
        made = ctx.params.get("output") if self.name == "export" else None
        check_places(outputs, made, ctx.params.get("store") if self.name == "install" else None)
        return super().invoke(ctx)


def _volume_options() -> list[click.Parameter]:
    """``--quiet`` and ``--verbose``, before the command and behind it."""
    return [
        click.Option(
            ["--quiet", "-q"],
            is_flag=True,
            help="Print errors, warnings and JSON alone, no tables and no progress; the exit status tells the rest.",
        ),
        click.Option(
            ["--verbose", "-v"],
            is_flag=True,
            help="Print the parts of each step, too, what native code writes, and where an error comes from.",
        ),
    ]


OUTPUTS = frozenset({"output", "json_file", "csv", "markdown", "html", "save", "timing_cache", "results"})
"""Names of the parameters that say where results go; every other one that takes a path is read."""
_MADE = {"init": "model", "calibrate": "calibration"}
"""What these commands write anew where other commands read it."""
_NAMED_FILES = frozenset({"source", "arch", "timing_cache"})  # texts that may name a file


def _named_file(parameter: str, value: Any) -> Any:
    """The file that the text of such a parameter names; None where it names none."""
    if not isinstance(value, str):
        return value
    text = value.rpartition(":")[0] if parameter == "arch" else value
    return Path(text) if value and text != "off" else None


class Commands(click.Group):
    """Turns expected errors into two lines and an exit status, 1 or of wrong usage 2, in this one place."""

    command_class = Command

    def main(self, *args: Any, **options: Any) -> Any:
        """Runs the program, on streams that can be written to."""
        prepare_streams()
        try:
            with interruption.taken():
                return super().main(*args, **options)
        except SpliteError as err:  # of the help, which is written before there is a command
            fail(err)
        finally:
            set_volume()

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Reads what stands before the command."""
        with _shown_errors(), _interruptible():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            with _shown_errors(), collecting_notes() as notes:
                try:
                    with _interruptible():
                        return super().invoke(ctx)
                finally:
                    put_notes(notes)
        except SpliteError as err:
            fail(err)
        except ModuleNotFoundError as err:
            name = (err.name or "").partition(".")[0]
            install = next((one.install for one in all_backends().values() if name in one.modules), "")
            if name in _EXTRAS:
                install = f"pip install 'splite-deploy[{_EXTRAS[name]}]'"
            if not install:
                raise
            message = f"'{ctx.invoked_subcommand}' needs {name}, which is not installed here."
            fail(MissingDependencyError(message, hint=f"Install it: {install}."))
        except ImportError as err:
            if (err.name or "").partition(".")[0] == "splite_deploy":
                raise
            message = f"'{ctx.invoked_subcommand}' needs a package that is broken here: {err}."
            fail(MissingDependencyError(message, hint="splite-deploy doctor says which, and what to type."))
        except OSError as err:
            if err.errno not in _SPENT:
                raise
            fail(OutputError(f"{err.strerror}: {err.filename or tempfile.gettempdir()}.", hint=_SPENT[err.errno]))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ends the program where a signal came, whatever other packages made of its exception."""
    try:
        yield
    except KeyboardInterrupt:
        interruption.current.end()
    except (Exception, SystemExit):
        if not interruption.current.came:
            raise
    if interruption.current.came:
        interruption.current.end()


@contextmanager
def _shown_errors() -> Iterator[None]:
    """Makes what the user typed safe to show where click refuses it."""
    try:
        yield
    except click.ClickException as err:
        vars(err)["message"] = shown(without_secrets(err.message), lines=True)  # final for whoever checks types
        raise


class BackendName(click.Choice):  # type: ignore[type-arg]  # click 8.1 knows none
    """The name of a backend, which may be given by an alias.

    Args:
        names: Of the backends.
    """

    def __init__(self, names: Iterable[str]) -> None:
        backends = [all_backends()[name] for name in names]
        self._names = {known: one.name for one in backends for known in (one.name, *one.aliases)}
        super().__init__([*(one.name for one in backends), *(alias for one in backends for alias in one.aliases)])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name."""
        return self._names[super().convert(value, param, ctx)]


def complete_files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Lets a shell complete files for an argument that may name one and something else."""
    return [CompletionItem(incomplete, type="file")]


def check_place(context: click.Context, option: click.Parameter, file: Path | None) -> Path | None:
    """Refuses a folder that is missing or closed before the work begins, which may take minutes."""
    if file is not None and file != STDOUT:
        with writing(file):
            check_writable(file)
    return file


def check_appended(context: click.Context, option: click.Parameter, file: Path | None) -> Path | None:
    """The same of a file that lines are appended to."""
    if file is not None and file != STDOUT:
        with writing(file):
            check_writable(file, appends=True)
    return file


def output_file(name: str, help: str) -> Callable[[CommandFunction], CommandFunction]:
    """An option that names a file of results; ``-`` is standard output."""
    return click.option(name, metavar="FILE", type=FilePath, callback=check_place, help=help)


def json_option(help: str, *, appends: bool = False) -> Callable[[CommandFunction], CommandFunction]:
    """``--json FILE``, the same for every command: ``-`` is standard output, without tables.

    Passed to the command as ``json_file``.
    """
    return click.option(
        "--json",
        "json_file",
        metavar="FILE",
        type=FilePath,
        callback=check_appended if appends else check_place,
        help=f"{help} FILE may be -, for standard output without tables.",
    )


threads_option = click.option(
    "--threads", type=click.IntRange(1), help="CPU threads; the backend's default without it."
)


model_option = click.option(
    "--model", type=FilePath, help="The model spec; model.toml beside the checkpoint without it."
)
method_option = click.option(
    "--method",
    type=click.Choice(("bn-scale", "group-norm", "l1", "taylor")),
    default="group-norm",
    show_default=True,
    help="The measure of a channel's importance.",
)


def backend_options(command: CommandFunction) -> CommandFunction:
    """``--backend``, ``--precision`` and ``--threads``, the same for every command that runs a network."""
    for option in (
        threads_option,
        click.option(
            "--precision",
            "-p",
            type=click.Choice(PRECISIONS),
            help="Only this precision; the first of the bundle without it.",
        ),
        click.option(
            "--backend",
            "-b",
            type=BackendName(all_backends()),
            help="Only this backend; without it the first that is installed. litert is another name of tflite.",
        ),
    ):
        command = option(command)
    return command


def device_options(command: CommandFunction) -> CommandFunction:
    """``--device`` and ``--devices``, given to the command as ``remote``: the machines, or None for this one.

    Raises:
        OptionError: A machine is not known, or is named twice; or there is a file of machines and none is named.
    """

    @wraps(command)
    def with_machines(*args: Any, devices: tuple[str, ...], devices_file: Path | None, **kwargs: Any) -> Any:
        remote = None
        if devices:
            from splite_deploy.cli.remote import Remote
            from splite_deploy.remote.devices import devices_of

            remote = Remote(tuple(devices_of(devices, devices_file)))
        elif devices_file is not None:
            raise OptionError("--devices is for --device, which is not given.", hint="Give both, or neither.")
        return command(*args, remote=remote, **kwargs)

    decorated: CommandFunction = with_machines
    for option in (
        click.option(
            "--devices",
            "devices_file",
            metavar="FILE",
            type=FilePath,
            help="With --device: the names, Pythons and power modes of machines; devices.toml here without it.",
        ),
        click.option(
            "--device",
            "devices",
            metavar="SSH|NAME",
            multiple=True,
            help="Do it on another machine, ssh://user@host or ssh://user@host:port, or its name in devices.toml. May "
            "be given several times: all of them work at once.",
        ),
    ):
        decorated = option(decorated)
    return decorated


def several_backends(command: CommandFunction) -> CommandFunction:
    """``--backend`` and ``--precision`` of commands that run all of them, given as ``backends`` and ``precisions``."""
    for option in (
        click.option(
            "--precision",
            "-p",
            "precisions",
            type=click.Choice(PRECISIONS),
            multiple=True,
            help="Only this precision; all without it. May be given several times.",
        ),
        click.option(
            "--backend",
            "-b",
            "backends",
            type=BackendName(all_backends()),
            multiple=True,
            help="Only this backend; all without it. May be given several times.",
        ),
    ):
        command = option(command)
    return command


def tuning_options(command: CommandFunction) -> CommandFunction:
    """The options that the backends have of their own, given to the command as ``tuning``: an object for each backend.

    Raises:
        OptionError: One was given that no backend named by ``--backend`` has.
    """
    flags: dict[str, tuple[OptionHelp, list[Backend]]] = {}
    for backend in all_backends().values():
        for name, about in offered(backend.options).items():
            flags.setdefault(name, (about, []))[1].append(backend)

    @wraps(command)
    def with_options(*args: Any, **kwargs: Any) -> Any:
        values = {name: kwargs.pop(name) for name in flags}
        given = {name: _value(flags[name][0], value) for name, value in values.items()}
        chosen = kwargs.get("backends") or tuple(filter(None, [kwargs.get("backend")]))
        for name, (about, backends) in flags.items():
            if given[name] is None:
                continue
            names, others = " and ".join(one.name for one in backends), " and ".join(chosen)
            if chosen and not {one.name for one in backends} & set(chosen):
                raise OptionError(f"{about.flag} is for {names}, and -b names {others}.", hint="Leave one of them out.")
            if about.names_backend and not chosen:
                message = f"{about.flag} is for {names}, and no backend is named."
                raise OptionError(message, hint=f"Add -b {' or -b '.join(one.name for one in backends)}.")
            if about.needs and all(given[other] is None for other in about.needs):
                needed = " or ".join(flags[other][0].flag for other in about.needs)
                message = f"{about.flag} says nothing without {needed}."
                raise OptionError(message, hint=f"Add {needed}, or leave it out.")
        return command(*args, tuning=_objects(given), **kwargs)

    decorated: CommandFunction = with_options
    for name, (about, backends) in reversed(flags.items()):
        text = f"{' and '.join(one.label for one in backends)}: {about.help}"
        decorated = _flag(name, about, text)(decorated)
    return decorated


def _flag(name: str, about: OptionHelp, text: str) -> Callable[[CommandFunction], CommandFunction]:
    if about.sets is not None:
        return click.option(about.flag, name, is_flag=True, help=text)
    if about.type is str and not about.choices:  # a file
        return click.option(about.flag, name, metavar="FILE", callback=not_empty, help=text)
    kind = click.Choice(about.choices) if about.choices else about.type
    return click.option(about.flag, name, type=kind, help=text)


def _value(about: OptionHelp, value: Any) -> Any:
    """What an option is set to; None where it was not given."""
    if about.sets is None:
        return value
    return about.sets if value else None


def _objects(given: dict[str, Any]) -> tuple[BackendOptions, ...]:
    """Options for every backend that was given some."""
    made = []
    for backend in all_backends().values():
        own = {name: given[name] for name in offered(backend.options) if given[name] is not None}
        if own:
            made.append(backend.options(**own))
    return tuple(made)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="splite-deploy")
def main(**volume: bool) -> None:
    """Puts lightweight pose networks on edge devices, and measures every conversion in pixels and millimetres.

    'export' turns a checkpoint into a bundle. On the device 'verify' checks the bundle, 'bench' times it, and 'run'
    finds keypoints with it.
    """


main.params += _volume_options()
