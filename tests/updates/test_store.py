"""A store of two bundles: installing, going back, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

from splite_deploy import PoseEstimator
from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.errors import BundleError, OutputError, ParityError, SpliteError, UpdateError
from splite_deploy.files import hidden_name, locked
from splite_deploy.runtime.install import install
from splite_deploy.updates import STORE, Slot, Store, make_update

Invoke = Callable[..., Result]


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def variant(bundle: Path, place: Path, tool_version: str) -> Path:
    """The same bundle with another manifest."""
    shutil.copytree(bundle, place)
    manifest = Bundle.open(bundle).manifest
    changed = dataclasses.replace(manifest, source=dataclasses.replace(manifest.source, tool_version=tool_version))
    (place / MANIFEST).write_text(changed.to_json(), encoding="utf-8")
    return place


@pytest.fixture
def second(tiny_bundle: Path, tmp_path: Path) -> Path:
    return variant(tiny_bundle, tmp_path / "second.splite", "2")


@pytest.fixture
def tiny_image(image: NDArray[np.uint8], tmp_path: Path) -> Path:
    assert cv2.imwrite(str(tmp_path / "frame.png"), image)
    return tmp_path / "frame.png"


def test_it_keeps_two_and_goes_back_and_forth(splite: Invoke, tiny_bundle: Path, second: Path, tmp_path: Path) -> None:
    store, third = tmp_path / "store", variant(tiny_bundle, tmp_path / "third.splite", "3")
    first = splite("install", store, tiny_bundle)
    assert first.exit_code == 0, first.output
    assert "golden crops" in first.output and f"The current bundle is {store / '1.splite'}." in first.output
    again = splite("install", store, tiny_bundle)
    assert again.exit_code == 0 and "is the current bundle already" in again.stderr
    assert names(store) == ["1.splite", "store.json"]

    assert splite("install", store, second).exit_code == 0
    assert Store(store).open().manifest.source.tool_version == "2"
    back = splite("install", store, "--rollback", "--json", "-")
    assert json.loads(back.stdout)["folder"] == str(store / "1.splite")
    assert Store(store).open().manifest == Bundle.open(tiny_bundle).manifest
    assert splite("install", store, "--rollback").exit_code == 0
    assert splite("install", store, third).exit_code == 0
    assert names(store) == ["2.splite", "3.splite", "store.json"]
    shown = splite("install", store).output
    assert shown == f"The current bundle is {store / '3.splite'}.\nThe other one is {store / '2.splite'}.\n"


def test_what_cannot_be_installed_is_called_as_it_was_named(splite: Invoke, tiny_bundle: Path, tmp_path: Path) -> None:
    refused = splite("install", tmp_path / "store", tiny_bundle, "-p", "int8")
    assert refused.exit_code == 1 and f"The bundle {tiny_bundle} holds no int8 artifact." in refused.stderr
    assert ".part" not in refused.output and not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "option", [("--allow-older",), ("-b", "ort"), ("-p", "fp32", "--rollback"), ("--threads", "1")]
)
def test_options_of_an_update_need_one(splite: Invoke, tmp_path: Path, option: tuple[str, ...]) -> None:
    refused = splite("install", tmp_path / "store", *option)
    assert refused.exit_code == 2 and "are about an update, and none was named." in refused.stderr


def test_its_folders_are_whole_bundles_for_everybody(tiny_bundle: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "store")
    state = install(store, tiny_bundle).state
    folder = store.folder(state.current)
    assert names(folder) == sorted({MANIFEST, "report.json", *(one.file for one in Bundle.open(folder).manifest.files)})
    assert folder.stat().st_mode & 0o777 == 0o755


def test_what_fails_here_is_not_switched_to(tiny_bundle: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    strict = shutil.copytree(tiny_bundle, tmp_path / "strict.splite")
    manifest = Bundle.open(strict).manifest
    limits = dataclasses.replace(manifest.artifacts[0].limits, shift_max_px=1e-9, shift_p95_px=1e-9)
    artifact = dataclasses.replace(manifest.artifacts[0], limits=limits)
    (strict / MANIFEST).write_text(dataclasses.replace(manifest, artifacts=(artifact,)).to_json(), encoding="utf-8")
    with pytest.raises(ParityError, match="ort fp32 differs on this machine"):
        install(store, strict)
    assert not store.path.exists()
    install(store, tiny_bundle)
    with pytest.raises(ParityError, match="ort fp32 differs on this machine"):
        install(store, strict)
    assert names(store.path) == ["1.splite", "store.json"] and store.read().current.number == 1


def test_a_flipped_byte_is_refused(splite: Invoke, second: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert splite("install", store, tiny_bundle).exit_code == 0
    graph = second / Bundle.open(second).manifest.artifacts[0].file
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    refused = splite("install", store, second)
    assert refused.exit_code == 1 and "is not the file that the manifest describes" in refused.stderr
    assert Store(store).read().current == Slot(1)


def test_a_link_out_is_refused(splite: Invoke, second: Path, tmp_path: Path) -> None:
    graph = second / Bundle.open(second).manifest.artifacts[0].file
    graph.rename(tmp_path / "graph.onnx")
    graph.symlink_to(tmp_path / "graph.onnx")
    refused = splite("install", tmp_path / "store", second)
    assert refused.exit_code == 1 and "is a link that leads out of the bundle" in refused.stderr
    assert not (tmp_path / "store").exists()


def test_a_network_for_another_task_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    store, other = Store(tmp_path / "store"), shutil.copytree(tiny_bundle, tmp_path / "other.splite")
    install(store, tiny_bundle)
    manifest = Bundle.open(other).manifest
    skeleton = manifest.model.skeleton
    renamed = dataclasses.replace(skeleton, keypoint_names=tuple(f"other {one}" for one in skeleton.keypoint_names))
    model = dataclasses.replace(manifest.model, skeleton=renamed)
    (other / MANIFEST).write_text(dataclasses.replace(manifest, model=model).to_json(), encoding="utf-8")
    with pytest.raises(UpdateError, match=r"finds other things than the bundle in") as refused:
        install(store, other)
    assert refused.value.hint == "Install it into a store of its own."


def test_who_failed_is_not_gone_back_to(tiny_bundle: Path, second: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    install(store, tiny_bundle)
    with pytest.raises(UpdateError, match=r"holds no other bundle to go back to"):
        store.roll_back()
    install(store, second)
    assert store.roll_back("frame 1: no memory", of=1).current.number == 2  # another program was faster
    assert store.roll_back("frame 1: no memory", of=2).current.number == 1
    with pytest.raises(UpdateError, match=r"was left before: frame 1: no memory\.") as refused:
        store.roll_back()
    assert refused.value.hint.startswith("Install one that works: splite-deploy install ")


def test_a_damaged_other_bundle_is_not_gone_back_to(
    splite: Invoke, tiny_bundle: Path, second: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    install(store, tiny_bundle)
    install(store, second)
    (store.path / "1.splite" / "golden.bin").unlink()
    refused = splite("install", store.path, "--rollback")
    assert refused.exit_code == 1 and "lacks its file golden.bin" in refused.stderr
    assert store.read().current.number == 2


def test_a_whole_bundle_takes_the_place_of_a_damaged_one(tiny_bundle: Path, second: Path, tmp_path: Path) -> None:
    store, update = Store(tmp_path / "store"), tmp_path / "b.update"
    install(store, tiny_bundle)
    make_update(update, Bundle.open(second), Bundle.open(tiny_bundle))
    (store.path / "1.splite" / "golden.bin").unlink()
    with pytest.raises(UpdateError, match=r"is damaged, and the update was made for it: .*lacks its file golden\.bin"):
        install(store, update)
    assert install(store, tiny_bundle).state.current.number == 2  # the same one
    assert store.open().manifest == Bundle.open(tiny_bundle).manifest
    with pytest.raises(BundleError, match=r"lacks its file golden\.bin"):
        store.roll_back()


def test_leftovers_of_a_loss_of_power_go_with_the_next_installation(
    tiny_bundle: Path, second: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    install(store, tiny_bundle)
    shutil.copytree(tiny_bundle, store.path / "2.splite")  # was put in its place, and never switched to
    shutil.copytree(tiny_bundle, store.path / ".2.splite-1.part.splite")
    (store.path / "7.splite").mkdir()  # not ours
    assert install(store, second).state.current.number == 2
    assert store.open().manifest.source.tool_version == "2"
    assert names(store.path) == ["1.splite", "2.splite", "7.splite", "store.json"]


def test_a_store_that_names_what_is_not_there_loses_no_bundle(tiny_bundle: Path, second: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    install(store, tiny_bundle)
    install(store, second)
    (store.path / "store.json").write_text('{"store_version": 1, "current": {"number": 1000}}')
    shutil.copytree(second, store.path / "1001.splite")
    with pytest.raises(SpliteError, match="No such file"):
        install(store, tmp_path / "nothing.splite")
    assert names(store.path) == ["1.splite", "1001.splite", "2.splite", "store.json"]
    assert install(store, tiny_bundle).state.current.number == 1002
    assert names(store.path) == ["1002.splite", "store.json"]
    assert store.open().manifest == Bundle.open(tiny_bundle).manifest


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "cannot be read: it is not valid JSON"),
        (b'{"store_version": 9}', "has version 9; this version of splite-deploy reads 1"),
        (b'{"store_version": true}', "is damaged: store_version is True, which has the wrong type."),
        (b'{"store_version": 1}', "is damaged: The field current is missing."),
        (b'{"store_version": 1, "current": 1}', "is damaged: current is 1"),
        (b'{"store_version": 1, "current": {"number": "../x"}}', "is damaged: current.number is '../x'"),
        (b'{"store_version": 1, "current": {"number": -3}}', "is damaged: a slot has the number -3."),
        (b'{"store_version": 1, "current": {"number": 1, "starts": -1}}', "is damaged: 1.splite has -1 starts."),
        (b'{"store_version": 1, "current": {"number": 1, "made": "late"}}', "damaged: 1.splite was made at 'late'."),
        (
            b'{"store_version": 1, "current": {"number": 1}, "other": {"number": 1}}',
            "is damaged: 1.splite is both of its slots.",
        ),
        (
            b'{"store_version": 1, "current": {"number": 1}, "public_key": "ab"}',
            "is damaged: its public_key is no key of 32 bytes in hex.",
        ),
    ],
)
def test_a_store_that_cannot_be_read(content: bytes, said: str, splite: Invoke, tmp_path: Path) -> None:
    (tmp_path / "store.json").write_bytes(content)
    refused = splite("install", tmp_path)
    assert refused.exit_code == 1 and said in refused.stderr and "hint: " in refused.stderr


def test_what_is_no_store(splite: Invoke, tiny_bundle: Path, tmp_path: Path) -> None:
    none = splite("install", tmp_path / "none")
    assert none.exit_code == 1 and f"{tmp_path / 'none'} is no store: it holds no store.json." in none.stderr
    assert f"Install a bundle into it: splite-deploy install {tmp_path / 'none'} NAME.splite." in none.stderr
    (tmp_path / "letters.txt").write_text("mine")
    full = splite("install", tmp_path, tiny_bundle)
    assert full.exit_code == 1 and "is no store, and holds other files" in full.stderr
    both = splite("install", tmp_path / "none", tiny_bundle, "--rollback")
    assert both.exit_code == 2 and "--rollback installs nothing, and an update was named" in both.stderr


@pytest.mark.parametrize("content", [b'{"store_version": 1, "current": {"number": 0}}', b'["store.json of somebody"]'])
def test_a_damaged_store_has_no_bundle_to_run(splite: Invoke, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "store.json").write_bytes(content)
    refused = splite("verify", tmp_path)
    assert refused.exit_code == 1 and "hint: " in refused.stderr
    said = (
        "store.json is damaged: a slot has the number 0." if b"number" in content else f"{tmp_path} is a store, which"
    )
    assert said in refused.stderr


def test_a_store_stands_for_its_current_bundle(
    splite: Invoke, tiny_bundle: Path, second: Path, tiny_image: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert splite("install", store, tiny_bundle).exit_code == splite("install", store, second).exit_code == 0
    alone = splite("run", second, tiny_image)
    assert alone.exit_code == 0 and splite("run", store, tiny_image).stdout == alone.stdout
    assert splite("verify", store).exit_code == 0
    assert json.loads(splite("inspect", store, "--json", "-").stdout)["source"]["tool_version"] == "2"
    timed = splite("bench", store, "--frames", "10", "--json", "-")
    assert timed.exit_code == 0, timed.output
    assert json.loads(timed.stdout)["bundle"] == "2.splite"
    made = splite("delta", store, tiny_bundle, "-o", tmp_path / "back.update")
    assert made.exit_code == 0 and splite("install", store, tmp_path / "back.update").exit_code == 0

    shutil.rmtree(store / "3.splite")
    lost = splite("run", store, tiny_image)
    assert lost.exit_code == 1 and f"{store} lacks 3.splite, its current bundle." in lost.stderr
    assert f"splite-deploy install {store} --rollback" in lost.stderr
    assert splite("install", store, "--rollback").exit_code == 0 and splite("run", store, tiny_image).exit_code == 0
    with pytest.raises(BundleError, match="is a store, which holds bundles, and not one of them") as refused:
        PoseEstimator.open(store)
    assert refused.value.hint.endswith("In Python PoseEstimator.follow runs what a store holds.")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("install", "store", "--json", "store/store.json"), "--json"),
        (("install", "store", "new.splite", "--json", "store/state.json"), "--json"),
        (("install", "empty", "new.splite", "--json", "empty/store.json"), "--json"),
        (("verify", "store", "--json", "store/store.json"), "--json"),
        (("run", "store", "image.png", "--save", "store/1.splite.png"), "--save"),
        (("run", "new.splite", "image.png", "--save", "link"), "--save"),
        (("export", "tiny.safetensors", "-o", "store/1.splite", "--overwrite"), "--output"),
        (("delta", "new.splite", "-o", "store/store.json", "--overwrite"), "--output"),
    ],
)
def test_no_result_goes_into_a_store(
    splite: Invoke,
    arguments: tuple[str, ...],
    option: str,
    tiny_bundle: Path,
    tiny_image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bundle, "new.splite")
    shutil.copy(tiny_image, "image.png")
    Path("tiny.safetensors").touch()
    Path("empty").mkdir()
    install(Store(Path("store")), tiny_bundle)
    Path("link").symlink_to("store")
    before = Path("store/store.json").read_bytes()
    refused = splite(*arguments)
    store = tmp_path / ("empty" if "empty" in arguments else "store")
    assert refused.exit_code == 1 and f"would write into the store {store}." in refused.stderr, refused.output
    assert f"Name another place with {option}; into a store only 'install' writes." in refused.stderr
    assert Path("store/store.json").read_bytes() == before and names(tmp_path / "store") == ["1.splite", "store.json"]
    assert names(tmp_path / "empty") == []


@pytest.mark.parametrize("named", ["store", "store/1.splite", "link", "link/1.splite"])
def test_engines_are_not_built_in_a_store(
    splite: Callable[..., Result], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    install(Store(Path("store")), tiny_bundle)
    Path("link").symlink_to("store")
    before = names(tmp_path / "store/1.splite")
    refused = splite("compile", named, "-p", "fp16")
    assert refused.exit_code == 1 and f"would be written into the store {tmp_path / 'store'}." in refused.stderr
    assert "Build them in a bundle of its own, and install that" in refused.stderr
    assert names(tmp_path / "store/1.splite") == before


def test_two_do_not_install_at_once(tiny_bundle: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.adding(), pytest.raises(OutputError, match=r"is being written by process \d+"):
        install(store, tiny_bundle)
    assert not store.path.exists()


def test_reading_waits_for_nobody(tiny_bundle: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    install(store, tiny_bundle)
    with locked(store.path):
        assert store.open().manifest == Bundle.open(tiny_bundle).manifest


def test_bundles_of_somebody_are_no_leftovers(tiny_bundle: Path, tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    for name in ("1.splite", "256.splite"):
        shutil.copytree(tiny_bundle, bundles / name)
        with pytest.raises(UpdateError, match=r"bundles is no store, and holds other files\."):
            install(Store(bundles), tiny_bundle)
    assert names(bundles) == ["1.splite", "256.splite"]


def test_a_first_installation_that_was_killed_before_its_last_step_is_made_anew(
    tiny_bundle: Path, second: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(second, store / "1.splite")
    hidden_name(store / STORE, "claim").touch()  # which nobody removed
    state = install(Store(store), tiny_bundle).state
    assert names(store) == ["1.splite", "store.json"] and state.current.number == 1
    assert Store(store).open().manifest == Bundle.open(tiny_bundle).manifest


def test_a_disk_that_is_full_at_the_last_step_leaves_nothing(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Store, state: object) -> None:
        raise OutputError("Cannot write store.json: No space left on device.", hint="")

    store = Store(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_write", full)
        with pytest.raises(OutputError, match="No space left"):
            install(store, tiny_bundle)
    assert not store.path.exists()
    install(store, tiny_bundle)
    assert names(store.path) == ["1.splite", "store.json"]


def test_a_key_that_is_required_meanwhile_is_kept(tiny_bundle: Path, second: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    install(store, tiny_bundle)
    with store.adding() as folder:
        shutil.copytree(second, folder, dirs_exist_ok=True)
        store.require_signatures("ab" * 32)
        with pytest.raises(UpdateError, match=r"takes only signed updates since a moment ago\."):
            store.switch(folder)
    assert store.read().public_key == "ab" * 32 and store.read().current.number == 1
    assert names(store.path) == ["1.splite", "store.json"]
