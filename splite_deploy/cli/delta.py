"""The command delta."""

from __future__ import annotations

from pathlib import Path

import click

from splite_deploy.cli.app import BundlePath, FilePath, check_place, json_option, main
from splite_deploy.cli.console import STDOUT, put_json, say, working
from splite_deploy.errors import OptionError
from splite_deploy.files import refuse_existing


@main.command(short_help="Write what a bundle changes of another as an update.")
@click.argument("bundles", metavar="[OLD] NEW", type=BundlePath, nargs=-1, required=True)
@click.option("--output", "-o", type=FilePath, required=True, callback=check_place, help="The file to write.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option(
    "--sign", "private_key", metavar="KEY", type=FilePath, help="Sign it with this private Ed25519 key, a PEM file."
)
@json_option("Write what the update holds as JSON.")
def delta(
    bundles: tuple[Path, ...], output: Path, overwrite: bool, private_key: Path | None, json_file: Path | None
) -> None:
    """Writes an update, one file, of which 'install' makes the bundle NEW where the bundle OLD is installed.

    It holds what NEW has and OLD has not: of a network whose head alone was trained the head, not the file around it.
    Without OLD it holds all of NEW, for a store that is empty.

    An update tells when it was made, and none takes the place of a newer one. With --sign it has a signature, which
    'install --require-signature' checks.
    """
    from splite_deploy.bundle import Bundle
    from splite_deploy.spec.plain import to_plain
    from splite_deploy.updates import make_update

    if len(bundles) > 2:
        raise OptionError(
            f"An update leads from one bundle to another, and {len(bundles)} are named.", hint="Name OLD and NEW."
        )
    refuse_existing(output, overwrite=overwrite)
    *old, new = map(Bundle.open, bundles)
    with working("delta"):
        header = make_update(output, new, old[0] if old else None, private_key=private_key)
    size = output.stat().st_size
    put_json(json_file, {**to_plain(header), "bytes": size, "signed": private_key is not None})
    if json_file != STDOUT:
        signed = "signed" if private_key else "not signed"
        say(f"{output}: {size / 1e6:.3f} MB for a bundle of {header.bytes / 1e6:.3f} MB, {signed}, of {header.made}.")
