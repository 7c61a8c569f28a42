"""init on every network of benchmarks/networks, and that what it writes exports and verifies."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from splite_deploy.spec import load_model_toml

pytest.importorskip("torch")

import torch  # noqa: TID253
from strange_nets import mediapipe_hand, movenet, simcc, volume_net, yolo

from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.init.look import made_pictures
from splite_deploy.runtime.io.images import write_image

NETWORKS = Path(__file__).parents[2] / "benchmarks" / "networks"
Splite = Callable[..., Result]
HEATMAP = ("heatmap", {"stride": 4.0})
PIXELS = ("coordinates", {"scale": "pixel"})


@pytest.fixture
def zoo() -> Iterator[Any]:
    sys.path.insert(0, str(NETWORKS))
    try:
        import zoo

        yield zoo
    finally:
        sys.path.remove(str(NETWORKS))


def seeded(name: str, zoo: Any, folder: Path) -> tuple[Path, list[str]]:
    """Weights of a topology, and how init is told of its architecture and its size."""
    topology = {**zoo.TOPOLOGIES, **zoo.VARIANTS}[name]
    file, _, symbol = topology.arch.rpartition(":")
    arch = f"{NETWORKS / file}:{symbol}"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = load_symbol(arch, folder)(**topology.keywords)
    torch.save(network.state_dict(), folder / "net.pt")
    arguments = [
        part for key, value in topology.keywords.items() for part in ("--arch-arg", f"{key}={json.dumps(value)}")
    ]
    return folder / "net.pt", ["--arch", arch, *arguments, "--input", f"{topology.height}x{topology.width}"]


@pytest.mark.parametrize(
    ("name", "keypoints", "kind", "fields"),
    [
        ("simplebaseline", 17, *HEATMAP),
        ("mobilenetv3", 17, *HEATMAP),
        ("shufflenetv2", 17, *HEATMAP),
        ("litehrnet", 17, *HEATMAP),
        ("rtmpose", 17, *PIXELS),
        ("rtmpose-argmax", 17, *PIXELS),
        ("vitpose", 17, *HEATMAP),
        ("vitpose-plain", 17, *HEATMAP),
        ("integral3d", 21, "coordinates", {"scale": "unit"}),
        ("integral3d-volume", 21, "volume", {"stride": 8.0, "bins": 64}),
        ("hourglass", 16, *HEATMAP),
        ("fastpose", 17, *HEATMAP),
        ("unet", 16, "heatmap", {"stride": 1.0}),
        ("blaze", 21, *PIXELS),
        ("splite-hand", 21, "depth", {"stride": 4.0}),
    ],
)
def test_every_topology_is_described(
    name: str, keypoints: int, kind: str, fields: dict[str, Any], zoo: Any, tmp_path: Path, splite: Splite
) -> None:
    weights, arguments = seeded(name, zoo, tmp_path)
    told = ["--kind", "depth"] if kind == "depth" else []
    result = splite("init", weights, *arguments, *told, "--like", "hrnet")
    assert result.exit_code == 0, result.output
    unknown = {"depth": ["alignment", "unit"], "volume": ["alignment", "depth_extent", "unit"]}.get(kind, [])
    text = (tmp_path / "model.toml").read_text(encoding="utf-8")
    for key in unknown:
        assert f'{key} = "?"' in text
    choices = {"alignment": '"corner"', "unit": '"palm"', "depth_extent": "4.0"}
    for key in unknown:
        text = text.replace(f'{key} = "?"', f"{key} = {choices[key]}")
    (tmp_path / "model.toml").write_text(text, encoding="utf-8")
    spec, _ = load_model_toml(tmp_path / "model.toml")
    assert spec.keypoint_count == keypoints
    wanted = {"heatmap": "argmax", "coordinates": "coordinates", "depth": "softargmax-depth", "volume": "volume"}[kind]
    assert spec.decoder.type == wanted
    assert {key: getattr(spec.decoder, key) for key in fields} == fields


def test_a_size_that_alone_is_taken_is_the_size(zoo: Any, tmp_path: Path, splite: Splite) -> None:
    weights, arguments = seeded("vitpose", zoo, tmp_path)
    result = splite("init", weights, *arguments[: arguments.index("--input")])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "model.toml").read_text(encoding="utf-8")
    assert "height = 128  # it takes none of 11 other usual sizes" in text and "width = 96" in text


def test_a_size_that_nothing_tells_is_left_to_the_user(zoo: Any, tmp_path: Path, splite: Splite) -> None:
    weights, arguments = seeded("mobilenetv3", zoo, tmp_path)
    untold = arguments[: arguments.index("--input")]
    result = splite("init", weights, *untold)
    assert "there: input.height, input.width, input.color" in result.output
    assert "tried: nothing tells the size of training" in " ".join(result.output.split())
    like = splite("init", weights, *untold, "--like", "hrnet", "--overwrite")
    assert like.exit_code == 0, like.output
    text = (tmp_path / "model.toml").read_text(encoding="utf-8")
    assert "height = 256  # usual for hrnet; the file leaves it open" in text


def test_pictures_of_the_user_are_shown_to_the_network(
    pictures: Path, zoo: Any, tmp_path: Path, splite: Splite
) -> None:
    weights, arguments = seeded("blaze", zoo, tmp_path)
    assert splite("init", weights, *arguments, "--images", pictures).exit_code == 0
    refused = splite("init", weights, *arguments, "--images", tmp_path / "none", "--overwrite")
    assert refused.exit_code == 1 and "none" in refused.output


def test_every_topology_is_in_the_table(zoo: Any) -> None:
    (mark,) = test_every_topology_is_described.pytestmark  # type: ignore[attr-defined]
    assert {row[0] for row in mark.args[1]} == {*zoo.TOPOLOGIES, *zoo.VARIANTS}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index, picture in enumerate(made_pictures(6)):
        write_image(folder / f"{index}.png", picture)
    return folder


def exports_and_verifies(source: Path, pictures: Path, splite: Splite) -> None:
    """What init wrote is enough for all that follows."""
    bundle = source.with_suffix(".splite")
    done = splite("export", source, "-o", bundle, "-b", "ort", "-p", "fp32", "--images", pictures)
    assert done.exit_code == 0, done.output
    verified = splite("verify", bundle)
    assert verified.exit_code == 0, verified.output
    run = splite("run", bundle, pictures / "0.png")
    assert run.exit_code == 0, run.output


@pytest.mark.slow
@pytest.mark.parametrize(("name", "like"), [("mobilenetv3", "hrnet"), ("hourglass", "vitpose"), ("blaze", "rtmpose")])
def test_weights_go_all_the_way(name: str, like: str, zoo: Any, pictures: Path, tmp_path: Path, splite: Splite) -> None:
    weights, arguments = seeded(name, zoo, tmp_path)
    result = splite("init", weights, *arguments, "--like", like)
    assert result.exit_code == 0, result.output
    exports_and_verifies(weights, pictures, splite)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "like"),
    [(movenet, "movenet"), (mediapipe_hand, "mediapipe-hand"), (simcc, "rtmpose"), (yolo, "yolo-pose")],
)
def test_graphs_go_all_the_way(
    write: Callable[[Path], Path], like: str, pictures: Path, tmp_path: Path, splite: Splite
) -> None:
    graph = write(tmp_path / "net.onnx")
    result = splite("init", graph, "--like", like)
    assert result.exit_code == 0, result.output
    exports_and_verifies(graph, pictures, splite)


@pytest.mark.slow
def test_a_volume_goes_all_the_way(pictures: Path, tmp_path: Path, splite: Splite) -> None:
    """From five axes to points in three dimensions, with the three fields filled in that no file tells."""
    graph = volume_net(tmp_path / "net.onnx")
    result = splite("init", graph, "--like", "simplebaseline", "--skeleton", "hand21")
    assert result.exit_code == 0, result.output
    model = tmp_path / "model.toml"
    text = model.read_text(encoding="utf-8")
    for key, value in (("alignment", '"centre"'), ("depth_extent", "2.0"), ("unit", '"palm"')):
        text = text.replace(f'{key} = "?"', f"{key} = {value}")
    model.write_text(text, encoding="utf-8")
    exports_and_verifies(graph, pictures, splite)
    run = splite("run", tmp_path / "net.splite", pictures / "0.png", "--json", "-")
    (pose,) = json.loads(run.stdout)["poses"]
    assert pose["unit"] == "palm" and len(pose["keypoints_3d"]) == 21
    assert pose["keypoints_3d"][9] == [0, 0, 0] and any(z for _, _, z in pose["keypoints_3d"])
