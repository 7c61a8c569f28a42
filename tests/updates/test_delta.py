"""Updates as files: small where little changed, refused where anything is wrong, signed where that is required."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.errors import UpdateError
from splite_deploy.runtime.install import install
from splite_deploy.updates import Slot, Store, UpdateFile, make_update
from splite_deploy.updates.pieces import cuts, found_again

Invoke = Callable[..., Result]
EARLY, LATE = datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 2, 1, tzinfo=timezone.utc)


def head_trained(bundle: Path, place: Path) -> Path:
    """The same network with other numbers at the end of its graph, as one whose head alone was trained has them."""
    onnx = pytest.importorskip("onnx")
    shutil.copytree(bundle, place)
    opened = Bundle.open(place)
    artifact = opened.manifest.artifacts[0]
    graph = onnx.load_from_string(opened.read(artifact))
    last = max(graph.graph.initializer, key=lambda one: len(one.raw_data))
    values = np.frombuffer(last.raw_data, np.float32)
    last.raw_data = (values * np.float32(1 + 1e-6)).tobytes()
    content = graph.SerializeToString()
    (place / artifact.file).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    changed = tuple(
        dataclasses.replace(one, sha256=digest) if one.file == artifact.file else one
        for one in opened.manifest.artifacts
    )
    (place / MANIFEST).write_text(dataclasses.replace(opened.manifest, artifacts=changed).to_json(), encoding="utf-8")
    return place


def changed(update: Path, change: Callable[[dict[str, Any]], object], stream: bytes | None = None) -> Path:
    """An update whose header says something else, with its hash made right."""
    opened = UpdateFile.open(update)
    content = update.read_bytes()
    lines = content.split(b"\n", 3)
    data = json.loads(lines[3][: int(lines[1].split()[1])])
    change(data)
    text = json.dumps(data).encode()
    head = f"{lines[0].decode()}\nheader {len(text)} {hashlib.sha256(text).hexdigest()}\n{lines[2].decode()}\n"
    update.write_bytes(head.encode() + text + (content[opened._stream_at :] if stream is None else stream))
    return update


@pytest.fixture(scope="module")
def new(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return head_trained(tiny_bundle, tmp_path_factory.mktemp("new") / "new.splite")


@pytest.fixture(scope="module")
def made(tiny_bundle: Path, new: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An update from the tiny bundle to the new one. Read only."""
    file = tmp_path_factory.mktemp("update") / "update"
    make_update(file, Bundle.open(new), Bundle.open(tiny_bundle), made=LATE)
    return file


@pytest.fixture
def update(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(made, tmp_path / "update"))


@pytest.fixture
def store(tiny_bundle: Path, tmp_path: Path) -> Store:
    """With the tiny bundle installed, without the time that a verification takes."""
    made = Store(tmp_path / "store")
    with made.adding() as folder:
        shutil.copytree(tiny_bundle, folder, dirs_exist_ok=True)
        made.switch(folder)
    return made


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key."""
    return pair(tmp_path, "key")


def pair(folder: Path, name: str) -> tuple[Path, Path]:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.hazmat.primitives import serialization as to

    private = ed25519.Ed25519PrivateKey.generate()
    plain = to.NoEncryption()
    (folder / f"{name}.pem").write_bytes(private.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, plain))
    public = private.public_key().public_bytes(to.Encoding.PEM, to.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.public.pem").write_bytes(public)
    return folder / f"{name}.pem", folder / f"{name}.public.pem"


def test_pieces_are_found_again_wherever_they_lie() -> None:
    old = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes()
    new = old[:50_000] + b"something else" + old[60_000:] + old[:30_000]
    pieces = found_again(new, {"model.onnx": old})
    assert b"".join(old[at : at + n] if name else new[at : at + n] for name, at, n in pieces) == new
    own = sum(size for name, _, size in pieces if not name)
    assert own < 20_000 and len(pieces) < 10


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 5000, (1 << 22) + 5000])
def test_cuts_do_not_depend_on_blocks(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()
    whole = cuts(content)
    assert whole == sorted(set(whole)) and (whole[-1:] == [size] or not size)
    monkeypatch.setattr("splite_deploy.updates.pieces._AT_ONCE", 4097)
    assert cuts(content) == whole
    assert cuts(bytes(100_000))[-1] == 100_000  # without a place to cut


def test_a_delta_is_small_and_makes_the_new_bundle(
    splite: Invoke, tiny_bundle: Path, new: Path, store: Store, tmp_path: Path
) -> None:
    delta = tmp_path / "update"
    done = splite("delta", tiny_bundle, new, "-o", delta)
    assert done.exit_code == 0 and "MB for a bundle of" in done.output and "not signed" in done.output
    refused = splite("delta", tiny_bundle, new, "-o", delta)
    assert refused.exit_code == 1 and "exists" in refused.stderr and "Add --overwrite" in refused.stderr
    whole = splite("delta", new, "-o", tmp_path / "whole", "--json", "-")
    assert whole.exit_code == 0 and json.loads(whole.stdout)["base"] == {}
    assert delta.stat().st_size < 0.7 * (tmp_path / "whole").stat().st_size

    installed = splite("install", store.path, delta)
    assert installed.exit_code == 0, installed.output
    assert store.open().manifest == Bundle.open(new).manifest
    for file in new.iterdir():
        assert (store.folder(store.read().current) / file.name).read_bytes() == file.read_bytes()
    assert "is the current bundle already" in splite("install", store.path, delta).stderr


def test_a_whole_update_needs_nothing(new: Path, tmp_path: Path) -> None:
    make_update(tmp_path / "whole", Bundle.open(new), made=EARLY)
    store = Store(tmp_path / "store")
    assert install(store, tmp_path / "whole").state.current == Slot(1, "2026-01-01T00:00:00Z")


def test_any_flipped_byte_is_refused(update: Path, store: Store) -> None:
    content = update.read_bytes()
    for place in sorted({*range(0, len(content), len(content) // 40), len(content) - 1}):
        flipped = bytearray(content)
        flipped[place] ^= 1
        update.write_bytes(flipped)
        with pytest.raises(UpdateError, match=r"is no update|has version|is damaged|announces"):
            install(store, update)
    update.write_bytes(content[:-1])
    with pytest.raises(UpdateError, match=r"is damaged: it is cut, or its bytes are not what was written") as refused:
        install(store, update)
    assert refused.value.hint.startswith("Copy it again, or make it anew: splite-deploy delta OLD NEW -o UPDATE")
    assert sorted(one.name for one in store.path.iterdir()) == ["1.splite", "store.json"]


def test_a_wrong_base_is_refused(update: Path, new: Path, tmp_path: Path) -> None:
    empty = Store(tmp_path / "empty")
    with pytest.raises(UpdateError, match=r"is for another bundle: nothing is installed\.") as refused:
        install(empty, update)
    assert "of the whole new bundle, splite-deploy delta NEW -o UPDATE" in refused.value.hint
    other = Store(tmp_path / "other")
    with other.adding() as folder:
        shutil.copytree(new, folder, dirs_exist_ok=True)
        (folder / MANIFEST).write_text(
            dataclasses.replace(
                Bundle.open(new).manifest, source=dataclasses.replace(Bundle.open(new).manifest.source, checkpoint="x")
            ).to_json(),
            encoding="utf-8",
        )
        other.switch(folder)
    with pytest.raises(UpdateError, match=r"is for another bundle: the model\.onnx that is installed is another\."):
        install(other, update)


def test_older_is_refused_unless_it_is_allowed(
    splite: Invoke, tiny_bundle: Path, update: Path, store: Store, tmp_path: Path
) -> None:
    assert splite("install", store.path, update).exit_code == 0
    make_update(tmp_path / "older", Bundle.open(tiny_bundle), made=EARLY)
    older = splite("install", store.path, tmp_path / "older")
    said = "was made on 2026-01-01T00:00:00Z, and what is installed in"
    assert older.exit_code == 1 and said in older.stderr and "add --allow-older, or --rollback" in older.stderr
    folder = splite("install", store.path, tiny_bundle)
    assert folder.exit_code == 1 and "does not tell when it was made" in folder.stderr
    assert splite("install", store.path, tmp_path / "older", "--allow-older").exit_code == 0
    assert store.read().current == Slot(3, "2026-01-01T00:00:00Z")


def set_name(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["files"][-1].update(name=name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_name("../../evil"), r"names '\.\./\.\./evil', which is no name of a file in a bundle"),
        (set_name("/etc/passwd"), r"names '/etc/passwd', which is no name of a file in a bundle"),
        (set_name("C:\\x"), r"which is no name of a file in a bundle"),
        (set_name(MANIFEST.upper()), "is malformed: it has a file twice"),
        (set_name("more.bin"), r"What .* makes is no bundle: .* lacks its file"),
        (lambda data: data["files"].append(data["files"][0] | {"name": "more"}), "is damaged: it is cut"),
        (lambda data: data["files"].pop(0), r"is malformed: it has no manifest\.json"),
        (lambda data: data.update(made="tomorrow"), "is malformed: its time is 'tomorrow'"),
        (lambda data: data.update(made="9999-99-99T99:99:99Z"), "is malformed: its time is '9999-99-99T99:99:99Z'"),
        (lambda data: data.update(made="٢٠٢٦-01-01T00:00:00Z"), "is malformed: its time is '٢٠٢٦-"),
        (lambda data: data["base"].clear(), r"is malformed: a piece of \S+ is nowhere"),
        (lambda data: data["files"][0]["pieces"].append(["", 0, 1 << 33]), r"announces files of \d+ bytes"),
        (lambda data: data["files"][0]["pieces"].append(["", 0, -5]), "is malformed: a piece of"),
        (
            lambda data: data["files"][0]["pieces"].append(["model.onnx", 1 << 30, 5]),
            "it copies what lies behind model",
        ),
        (lambda data: data.update(files=1), "is malformed: files is 1, which has the wrong type"),
        (
            lambda data: data.update(files=[data["files"][0]] * 1001),
            "announces 1001 files; no update has more than 1000",
        ),
    ],
)
def test_what_no_update_may_hold(
    change: Callable[[dict[str, Any]], object], said: str, update: Path, store: Store
) -> None:
    with pytest.raises(UpdateError, match=said) as refused:
        install(store, changed(update, change))
    assert refused.value.hint
    assert sorted(one.name for one in store.path.iterdir()) == ["1.splite", "store.json"]


def test_a_stream_that_unpacks_to_more_is_not_unpacked(update: Path, store: Store) -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    with pytest.raises(UpdateError, match="is damaged"):
        install(store, changed(update, lambda data: None, stream=bomb))
    header = update.read_bytes().split(b"\n", 1)
    update.write_bytes(header[0] + b"\nheader 999999999 " + b"0" * 64 + b"\nsignature none\n")
    with pytest.raises(UpdateError, match=r"announces a header of 999999999 bytes; no update has more than 16777216"):
        install(store, update)


def test_a_full_disk_is_told_before_anything_is_written(
    update: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(store.path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UpdateError, match=r"makes files of \S+ MB, and the disk of \S+ has 0\.0 MB left\.") as refused:
        install(store, update)
    assert refused.value.hint == "Free some space there."


def test_a_store_that_requires_signatures(
    splite: Invoke, tiny_bundle: Path, new: Path, store: Store, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    unsigned, signed = tmp_path / "unsigned", tmp_path / "signed"
    assert splite("delta", tiny_bundle, new, "-o", unsigned).exit_code == 0
    done = splite("delta", tiny_bundle, new, "-o", signed, "--sign", private)
    assert done.exit_code == 0 and ", signed, " in done.output
    assert splite("install", store.path, "--require-signature", public).exit_code == 0

    refused = splite("install", store.path, unsigned)  # the store remembers
    assert refused.exit_code == 1 and "is not signed, and only signed updates are installed here" in refused.stderr
    assert "Have it signed: splite-deploy delta --sign KEY.pem OLD NEW -o UPDATE." in refused.stderr
    folder = splite("install", store.path, new)
    assert folder.exit_code == 1 and "is a folder, which has no signature" in folder.stderr

    other_private, other_public = pair(tmp_path, "other")
    wrong = tmp_path / "wrong"
    assert splite("delta", tiny_bundle, new, "-o", wrong, "--sign", other_private).exit_code == 0
    another = splite("install", store.path, wrong)
    assert another.exit_code == 1 and "is not that of the required key, " in another.stderr
    assert "Install none of it" in another.stderr
    switched = splite("install", store.path, wrong, "--require-signature", other_public)
    assert switched.exit_code == 1 and "and another one is asked for" in switched.stderr

    later = changed(
        Path(shutil.copy(signed, tmp_path / "later")), lambda data: data.update(made="2099-01-01T00:00:00Z")
    )
    changed_since = splite("install", store.path, later)
    assert changed_since.exit_code == 1 and "is not that of the required key" in changed_since.stderr

    installed = splite("install", store.path, signed)
    assert installed.exit_code == 0, installed.output
    assert "It takes only what the key" in installed.output and store.read().public_key


def test_the_first_installation_may_set_the_key(
    splite: Invoke, tiny_bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    refused = splite("install", tmp_path / "store", tiny_bundle, "--require-signature", public)
    assert refused.exit_code == 1 and "is a folder, which has no signature" in refused.stderr
    assert not (tmp_path / "store").exists()
    assert splite("delta", tiny_bundle, "-o", tmp_path / "whole", "--sign", private).exit_code == 0
    assert splite("install", tmp_path / "store", tmp_path / "whole", "--require-signature", public).exit_code == 0
    assert Store(tmp_path / "store").read().public_key


def test_files_that_are_no_keys(
    splite: Invoke, tiny_bundle: Path, keys: tuple[Path, Path], store: Store, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization as to

    private, public = keys
    held = splite("install", store.path, "--require-signature", private)
    assert held.exit_code == 1 and "holds a private key, which has no place on a device" in held.stderr
    swapped = splite("delta", tiny_bundle, "-o", tmp_path / "whole", "--sign", public)
    assert swapped.exit_code == 1 and "holds no private Ed25519 key as PEM" in swapped.stderr
    assert "openssl genpkey -algorithm ed25519 -out key.pem" in swapped.stderr
    none = splite("install", store.path, "--require-signature", tiny_bundle / MANIFEST)
    assert none.exit_code == 1 and "holds no public Ed25519 key as PEM" in none.stderr
    locked = to.load_pem_private_key(private.read_bytes(), None).private_bytes(
        to.Encoding.PEM, to.PrivateFormat.PKCS8, to.BestAvailableEncryption(b"secret")
    )
    private.write_bytes(locked)
    protected = splite("delta", tiny_bundle, "-o", tmp_path / "whole", "--sign", private)
    assert protected.exit_code == 1 and "is protected by a passphrase, which nobody is asked for" in protected.stderr
    assert not (tmp_path / "whole").exists()
    three = splite("delta", tiny_bundle, tiny_bundle, tiny_bundle, "-o", tmp_path / "whole")
    assert three.exit_code == 2 and "An update leads from one bundle to another, and 3 are named" in three.stderr
