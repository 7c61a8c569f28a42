"""The command completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from splite_deploy.cli.app import main
from splite_deploy.cli.console import STDOUT, put_text

PROGRAM = "splite-deploy"
_VARIABLE = "_SPLITE_DEPLOY_COMPLETE"  # the one that click looks for in a program of this name


@main.command(short_help="Print what completes commands and options in a shell.")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Prints the script by which a shell completes commands, options, their values, and files with the tab key.

    \b
    bash   eval "$(splite-deploy completion bash)"     in ~/.bashrc; from bash 4.4 on
    zsh    eval "$(splite-deploy completion zsh)"      in ~/.zshrc, behind compinit
    fish   splite-deploy completion fish > ~/.config/fish/completions/splite-deploy.fish
    """  # noqa: D301 - click takes the character for a paragraph that keeps its lines
    made = get_completion_class(shell)
    assert made is not None  # click has all three
    put_text(STDOUT, f"{made(main, {}, PROGRAM, _VARIABLE).source().strip()}\n")
