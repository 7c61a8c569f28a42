"""The group of commands, its one error boundary, and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from splite_deploy.cli.console import fail
from splite_deploy.errors import MissingDependencyError, SpliteError
from splite_deploy.runtime.session import BACKENDS, MEMORY_BACKENDS, GpuOptions
from splite_deploy.spec import PRECISIONS
from splite_deploy.version import __version__

FilePath = click.Path(path_type=Path)
Command = Callable[..., Any]

_EXTRAS = {
    **dict.fromkeys(("torch", "onnx", "onnxsim", "onnxscript", "safetensors"), "export"),
    "onnxruntime": "ort",
    "ai_edge_litert": "litert",
    **dict.fromkeys(("tensorflow", "onnx2tf"), "tflite"),
}


class Commands(click.Group):
    """Turns expected errors into two lines and exit status 1, in this one place."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except SpliteError as err:
            fail(err)
        except ModuleNotFoundError as err:
            name = (err.name or "").partition(".")[0]
            if name not in _EXTRAS:
                raise
            message = f"'{ctx.invoked_subcommand}' needs {name}, which is not installed here."
            hint = f"Install it: pip install 'splite-deploy[{_EXTRAS[name]}]'."
            fail(MissingDependencyError(message, hint=hint))
        except ImportError as err:
            if (err.name or "").partition(".")[0] == "splite_deploy":
                raise
            message = f"'{ctx.invoked_subcommand}' needs a package that is broken here: {err}."
            fail(MissingDependencyError(message, hint="splite-deploy doctor says which, and what to type."))


def backend_options(command: Command) -> Command:
    """``--backend``, ``--precision`` and ``--threads``, the same for every command that runs a network."""
    command = click.option("--threads", type=click.IntRange(1), help="CPU threads; the backend's default without it.")(
        command
    )
    command = click.option(
        "--precision", "-p", type=click.Choice(PRECISIONS), help="Only this precision; any without it."
    )(command)
    return click.option(
        "--backend",
        "-b",
        type=click.Choice(list(BACKENDS)),
        help="Only this backend; the first installed without it.",
    )(command)


def gpu_options(command: Command) -> Command:
    """``--memory-backend`` and ``--no-cuda-graph``, given to the command as ``gpu``; TensorRT alone takes notice."""

    @click.option(
        "--memory-backend",
        type=click.Choice(MEMORY_BACKENDS),
        default="auto",
        show_default=True,
        help="TensorRT: what handles the GPU's memory.",
    )
    @click.option("--no-cuda-graph", is_flag=True, help="TensorRT: launch every kernel anew.")
    @wraps(command)
    def with_gpu(*args: Any, memory_backend: str, no_cuda_graph: bool, **kwargs: Any) -> Any:
        gpu = GpuOptions(memory_backend=memory_backend, cuda_graph=False if no_cuda_graph else None)
        return command(*args, gpu=gpu, **kwargs)

    return with_gpu


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="splite-deploy")
def main() -> None:
    """Puts lightweight pose networks on edge devices, and proves every conversion in pixels and millimetres.

    A checkpoint becomes a bundle (export); the bundle is checked (verify), timed (bench) and run (run) on the device.
    """
