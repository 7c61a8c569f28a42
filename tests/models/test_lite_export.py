"""The body networks as they are shipped: each model.toml, seeded weights, a bundle of each, and each compacted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from splite_deploy.bundle import Bundle
from splite_deploy.compact import CompactOptions, compact_checkpoint
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.crops import crops_from_renderer
from splite_deploy.export.source.checkpoint import build_architecture
from splite_deploy.export.source.load import load_model
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.verify import verify
from splite_deploy.spec import load_model_toml

LITE = Path(__file__).parents[2] / "models" / "lite_pose"
FOLDERS = sorted(file.parent.name for file in LITE.glob("*/model.toml"))
if str(LITE) not in sys.path:
    sys.path.insert(0, str(LITE))

import seeded


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the user's own cache of rendered images out of the tests."""
    monkeypatch.setenv("SPLITE_CACHE", str(tmp_path_factory.getbasetemp() / "lite-cache"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Seeded weights of each network at a quarter of its width, on crops of 128 x 96, beside its model.toml."""
    made = {}
    for name in FOLDERS:
        folder = tmp_path_factory.mktemp(name)
        text = (LITE / name / "model.toml").read_text(encoding="utf-8").replace('"../', f'"{LITE}/')
        text = re.sub(r"^width = \d\.\d+", "width = 0.25", text, flags=re.MULTILINE)
        text = text.replace("height = 256", "height = 128").replace("width = 192", "width = 96")
        text = text.replace("height_px = 256", "height_px = 128").replace("width_px = 192", "width_px = 96")
        (folder / "model.toml").write_text(text, encoding="utf-8")
        made[name] = folder / "net.safetensors"
        seeded.write(folder / "model.toml", made[name])
    return made


@pytest.mark.parametrize("name", FOLDERS)
def test_a_network_gives_what_its_decoder_reads(name: str) -> None:
    spec, host = load_model_toml(LITE / name / "model.toml")
    assert (spec.input.height, spec.input.width, spec.keypoint_count) == (256, 192, 17)
    with torch.inference_mode():
        outputs = build_architecture(host).eval()(torch.zeros(1, 3, 256, 192))
    shapes = spec.decoder.shapes(17, spec.input)
    found = [tuple(output.shape[1:]) for output in ((outputs,) if isinstance(outputs, torch.Tensor) else outputs)]
    assert found == [tuple(shapes[role]) for role in spec.decoder.roles]


@pytest.mark.parametrize("name", FOLDERS)
def test_seeded_keypoints_differ_between_pictures(name: str, small: dict[str, Path]) -> None:
    loaded = load_model(small[name], None, None)
    crops = crops_from_renderer(loaded.host, 6, loaded.spec.input)
    outputs = loaded.run(Preprocessor(loaded.spec.input, "rgb").normalise(crops.pixels))
    keypoints = loaded.spec.decoder.decode(outputs, loaded.spec.input).keypoints
    assert keypoints.shape == (6, 17, 2)
    assert keypoints.std(axis=0).mean() > 2.0


def test_seeded_weights_are_always_the_same(small: dict[str, Path], tmp_path: Path) -> None:
    name = FOLDERS[0]
    command = [
        sys.executable,
        LITE / "seeded.py",
        small[name].with_name("model.toml"),
        "-o",
        tmp_path / "again.safetensors",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.safetensors").read_bytes() == small[name].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "litehrnet"])  # the benchmarks export that one
def test_each_network_becomes_a_bundle_that_verifies(name: str, small: dict[str, Path], tmp_path: Path) -> None:
    bundle = export_bundle(small[name], tmp_path / "net.splite", options=ExportOptions(crops=2))
    assert [artifact.label for artifact in bundle.manifest.artifacts] == ["ort fp32"]
    report = bundle.report()
    assert max(parity.deviation_px.max for parity in report.parity) < 0.01
    assert not any(check.violations for check in verify(Bundle.open(tmp_path / "net.splite")))


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_each_network_is_compacted(name: str, small: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "compacted.safetensors"
    options = CompactOptions("group-norm", speed_up=1.5, round_to=4)
    result = compact_checkpoint(
        small[name], output, options, model=small[name].with_name("model.toml"), crops=2, latency=False
    )
    assert result.speed_up >= 1.5
    loaded = load_model(output, small[name].with_name("model.toml"), None)
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 128, 96), np.float32))
    with torch.inference_mode():
        outputs = loaded.network(image)
    assert all(torch.isfinite(one).all() for one in ((outputs,) if isinstance(outputs, torch.Tensor) else outputs))
