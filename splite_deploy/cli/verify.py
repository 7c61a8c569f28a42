"""The command verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splite_deploy.cli.app import (
    BundlePath,
    FilePath,
    device_options,
    json_option,
    main,
    several_backends,
    threads_option,
    tuning_options,
)
from splite_deploy.cli.console import STDOUT, put_json, say, show, warn, working
from splite_deploy.cli.network_file import is_network_file, model_option, reject_bundle_options, reject_model
from splite_deploy.errors import UsageError
from splite_deploy.files import is_folder
from splite_deploy.spec import Precision

if TYPE_CHECKING:
    from splite_deploy.cli.remote import Remote
    from splite_deploy.runtime.backends.base import BackendOptions


@main.command(short_help="Check a bundle or a file on this machine.")
@click.argument("bundle", metavar="BUNDLE|FILE", type=BundlePath)
@model_option
@click.option(
    "--images",
    type=FilePath,
    help="For a file without a bundle: photographs to compare on, a folder or a labels.json; random pictures without.",
)
@click.option(
    "--reference",
    type=FilePath,
    help="For a file without a bundle: another file of the same network to compare with, such as the float one.",
)
@click.option("--reference-model", type=FilePath, help="The model spec of --reference; that of the file without it.")
@several_backends
@threads_option
@tuning_options
@device_options
@json_option("Write the differences as JSON.")
def verify(
    bundle: Path,
    model: Path | None,
    images: Path | None,
    reference: Path | None,
    reference_model: Path | None,
    backends: tuple[str, ...],
    precisions: tuple[Precision, ...],
    threads: int | None,
    tuning: tuple[BackendOptions, ...],
    remote: Remote | None,
    json_file: Path | None,
) -> None:
    """Runs the bundle's golden images on this machine and compares the results with the original network.

    Without options it checks every artifact of the bundle. With several backends and precisions it checks each of
    these backends in each of these precisions, and the bundle has to hold them all.

    Preprocessing is compared separately: this machine's crop of a golden image with the recorded one, because versions
    of OpenCV round differently. The exit status is 1 if an artifact differs by more than its limits, or if the crop
    alone moves keypoints too far.

    A file without a bundle (.onnx, .tflite) is compared with its runtime's own reference kernels, and with another file
    of the same network: an int8 file with the float one, a converted file with its original. Keypoints may move as far
    as the file's precision allows.

    With --device all of this happens on another machine, by ssh: what it lacks of the bundle and of splite-deploy is
    sent there. It needs Python 3.10 and the packages that 'doctor' names. The JSON then has an object for each machine.
    """
    if is_network_file(bundle):
        reject_bundle_options(bundle, {"--precision": precisions or None})
        names = (reference, reference_model)
        if reference_model is not None and reference is None:
            raise UsageError(
                "--reference-model is the model spec of --reference, which is not given.", hint="Give both."
            )
        if remote is not None:
            from splite_deploy.runtime.verify_file import FileComparison

            _verify_there(remote, tuple[FileComparison, ...], backends, json_file)
            return
        _verify_file(bundle, model, images, names, backends or ("auto",), threads, tuning, json_file)
        return
    reject_model(bundle, model)
    for name, value in (("--images", images), ("--reference", reference), ("--reference-model", reference_model)):
        if value is not None and is_folder(bundle):
            raise UsageError(
                f"{name} is for a file without a bundle; {bundle} is a bundle, which holds what it is compared with.",
                hint=f"Leave {name} out.",
            )
    if remote is not None:
        from splite_deploy.runtime.verify import Verification

        _verify_there(remote, tuple[Verification, ...], backends, json_file)
        return
    from splite_deploy.bundle import Bundle
    from splite_deploy.cli.tables.bundle import image_table, parity_table
    from splite_deploy.runtime.verify import check
    from splite_deploy.runtime.verify import verify as verify_bundle
    from splite_deploy.spec.plain import to_plain

    opened = Bundle.open(bundle)
    with working("verify") as progress:
        results = verify_bundle(opened, backends, precisions, threads=threads, options=tuning, progress=progress)
    put_json(json_file, [to_plain(result) for result in results])
    if json_file != STDOUT:
        rows = [(result.parity, result.violations) for result in results]
        show(parity_table(rows, opened.model), image_table(results))
        for one in results:
            if one.placements:
                say(f"{one.label}: ran by {' and '.join(map(str, one.placements))}")
    for warning in dict.fromkeys(f"{one.label}: {text}" for one in results for text in one.warnings):
        warn(warning)
    check(results)


def _verify_there(remote: Remote, kind: Any, backends: tuple[str, ...], json_file: Path | None) -> None:
    """Verifies on other machines.

    Args:
        remote: The machines.
        kind: The type of the results.
        backends: That were named.
        json_file: Of ``--json``.

    Raises:
        SpliteError: One of them failed, or a limit is broken there.
    """
    from splite_deploy.cli.remote import RESULT, check_all, read_each
    from splite_deploy.cli.tables.remote import devices_table, verified_table
    from splite_deploy.remote.work import read_results
    from splite_deploy.spec.plain import to_plain

    with remote.outcomes(backends=backends) as outcomes:
        found = read_each(outcomes, lambda one: read_results(one, one.folder / RESULT, kind))
    if found:
        put_json(json_file, [{**one.about, "results": to_plain(results)} for one, results in found])
        if json_file != STDOUT:
            show(devices_table(outcomes), verified_table(found))
    check_all(outcomes)


def _verify_file(
    path: Path,
    model: Path | None,
    images: Path | None,
    reference: tuple[Path | None, Path | None],
    backends: tuple[str, ...],
    threads: int | None,
    tuning: tuple[BackendOptions, ...],
    json_file: Path | None,
) -> None:
    """Verifies a file without a bundle by each backend.

    Raises:
        ParityError: A limit is broken.
    """
    from splite_deploy.cli.tables.bundle import parity_table
    from splite_deploy.runtime.network_file import NetworkFile
    from splite_deploy.runtime.verify_file import check_file, verify_file
    from splite_deploy.spec.plain import to_plain

    other, its_model = reference
    file = NetworkFile.read(path, model)
    beside = None
    if other is not None:
        beside = (
            NetworkFile.read(other, its_model, option="--reference-model")
            if its_model
            else NetworkFile(other, file.spec, file.host)
        )
    with working("verify") as progress:
        results = [
            result
            for backend in backends
            for result in verify_file(
                file, backend, images=images, reference=beside, threads=threads, options=tuning, progress=progress
            )
        ]
    put_json(json_file, [to_plain(result) for result in results])
    if json_file != STDOUT:
        show(*(parity_table([(result.parity, result.violations)], file.spec) for result in results))
        say(f"{path.name} is {results[0].precision}: {results[0].numbers}.")
    check_file(results)
