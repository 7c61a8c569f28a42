"""The command init: what it learns of a network, what it writes, and what it leaves to be filled in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from splite_deploy.decoders import Offset
from splite_deploy.errors import SpecError
from splite_deploy.spec import OutputView, load_model_toml

pytest.importorskip("torch")

import torch  # noqa: TID253
from strange_nets import (
    Out,
    Strange,
    integral,
    integral_heatmaps,
    mediapipe_hand,
    movenet,
    posenet,
    volume_net,
    write_onnx,
    yolo,
)
from torch import Tensor, nn  # noqa: TID253

from splite_deploy.export.log_output import quiet
from splite_deploy.export.source.symbol import load_symbol

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TINY = Path(__file__).parents[1] / "tiny"
FOREIGN = Path(__file__).parents[1] / "vectors" / "foreign.float32.tflite"
Splite = Callable[..., Result]
FILLED = (
    *("--color", "rgb", "--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375"),
    *("--box-padding", 1.25, "--pad-value", 0, "--alignment", "centre"),
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.pt"
    torch.save({"state_dict": load_symbol("arch.py:build", TINY)().state_dict()}, file)
    return file


def written(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


def test_weights_with_their_architecture(weights: Path, splite: Splite) -> None:
    arch = ("--arch", f"{TINY}/arch.py:build", "--arch-arg", "channels=8", "--arch-arg", "keypoints=5")
    result = splite("init", weights, *arch, "--input", "64x48")
    assert result.exit_code == 0, result.output
    model = weights.parent / "model.toml"
    found = written(model)
    assert found["input"]["height"] == 64 and found["input"]["width"] == 48
    assert found["decoder"] == {
        "type": "softargmax-window",
        "stride": 4.0,
        "beta": 20.0,
        "alignment": "?",
        "window": 9,
    }
    assert found["arch_args"] == {"channels": 8, "keypoints": 5}
    assert (model.parent / found["arch"].partition(":")[0]).resolve() == TINY / "arch.py"
    assert found["outputs"]["heatmap"]["source"] == -1  # two maps without names: stages, as far as anyone can see
    told = "input.color, input.mean, input.std, input.box_padding, input.pad_value, decoder.alignment"
    assert f'Fill in what is written as "?" there: {told}. Then:' in result.output
    assert f"splite-deploy export {weights} --model {model} -o tiny.splite --images PICTURES" in result.output
    with pytest.raises(SpecError) as caught:
        load_model_toml(model)
    assert caught.value.message == f'{model} has 6 fields to be filled in, written as "?": {told}.'
    assert "--like" in caught.value.hint


def test_weights_that_are_thinner_than_their_architecture(tmp_path: Path, splite: Splite) -> None:
    file = tmp_path / "thin.pt"
    torch.save({"state_dict": load_symbol("arch.py:build", TINY)(channels=6).state_dict()}, file)
    arch = ("--arch", f"{TINY}/arch.py:build")
    refused = splite("init", file, *arch)
    assert refused.exit_code == 1 and "have another shape than the architecture" in refused.output
    assert "--arch-arg" in refused.output and "--input HxW" in refused.output
    made = splite("init", file, *arch, "--input", "64x48", *FILLED)
    assert made.exit_code == 0, made.output
    assert "reshaped" in made.output
    assert written(tmp_path / "model.toml")["input"]["height"] == 64


def test_what_is_filled_in_loads(weights: Path, splite: Splite) -> None:
    arch = ("--arch", f"{TINY}/arch.py:build")
    result = splite("init", weights, *arch, "--input", "64x48", *FILLED)
    assert result.exit_code == 0, result.output
    assert "Next:" in result.output and "Fill in" not in result.output
    spec, host = load_model_toml(weights.parent / "model.toml")
    assert spec.name == "tiny" and spec.keypoint_count == 5 and spec.skeleton.keypoint_names[4] == "point4"
    assert host.view.output("heatmap").source == -1


def test_a_file_is_never_replaced_unasked(weights: Path, splite: Splite) -> None:
    model = weights.parent / "model.toml"
    model.write_text("mine", encoding="utf-8")
    arch = ("--arch", f"{TINY}/arch.py:build", "--input", "64x48")
    result = splite("init", weights, *arch)
    assert result.exit_code == 1 and f"{model} exists." in result.output and "--overwrite" in result.output
    assert model.read_text(encoding="utf-8") == "mine"
    assert splite("init", weights, *arch, "--overwrite").exit_code == 0
    assert written(model)["name"] == "tiny"


def test_weights_alone_tell_what_their_shapes_tell(weights: Path, splite: Splite) -> None:
    result = splite("init", weights, "--json", "-")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert "arch" in told["unknown"] and "decoder.stride" in told["unknown"] and told["found"] is None
    found = written(weights.parent / "model.toml")
    assert len(found["skeleton"]["keypoint_names"]) == 5
    assert "5 channels, of the last convolution 'depth.weight': as many heatmaps" in told["text"]


def test_weights_of_bins_tell_the_size(tmp_path: Path, splite: Splite) -> None:
    tensors = {
        "backbone.conv.weight": torch.zeros(8, 3, 3, 3),
        "head.final_layer.weight": torch.zeros(17, 8, 7, 7),
        "head.cls_x.weight": torch.zeros(384, 256),
        "head.cls_y.weight": torch.zeros(512, 256),
    }
    torch.save(tensors, tmp_path / "rtmpose.pth")
    result = splite("init", tmp_path / "rtmpose.pth", "--like", "rtmpose")
    assert result.exit_code == 0, result.output
    found = written(tmp_path / "model.toml")
    assert (found["input"]["height"], found["input"]["width"]) == (256, 192)
    assert found["decoder"] == {"type": "simcc", "split_ratio": 2.0, "refine": "none"}
    assert 'Fill in what is written as "?" there: arch. Then:' in result.output
    assert splite("init", tmp_path / "rtmpose.pth", "--input", "256x192", "--overwrite").exit_code == 0
    assert written(tmp_path / "model.toml")["input"]["height"] == 256


def test_movenet(tmp_path: Path, splite: Splite) -> None:
    result = splite("init", movenet(tmp_path / "lightning.onnx"), "--like", "movenet")
    assert result.exit_code == 0, result.output
    spec, host = load_model_toml(tmp_path / "model.toml")
    assert (host.view.input.layout, host.view.input.dtype) == ("NHWC", "int32")
    view = host.view.output("coordinates")
    assert (view.layout, view.columns) == ("N1KC", ("y", "x", "score"))
    assert spec.input.mean == (0, 0, 0) and spec.input.std == (1, 1, 1) and spec.input.box_padding == 1
    assert spec.skeleton.keypoint_names[0] == "nose" and (spec.input.height, spec.input.width) == (64, 64)
    text = (tmp_path / "model.toml").read_text(encoding="utf-8")
    assert "# of movenet" in text and "tfhub.dev/google/movenet" in text


def test_integers_of_pixels_are_not_normalised_as_the_family_is(tmp_path: Path, splite: Splite) -> None:
    outs = {"maps": Out((17, 16, 12), -0.02, 0.9)}
    image = torch.zeros(1, 64, 48, 3, dtype=torch.uint8)
    network = Strange(outs, layout="NHWC", scale=1 / 255)
    file = write_onnx(tmp_path / "net.onnx", network, image, list(outs))
    result = splite("init", file, "--like", "simplebaseline")
    assert result.exit_code == 0, result.output
    spec, host = load_model_toml(tmp_path / "model.toml")
    assert (spec.input.color, spec.input.mean, spec.input.std) == ("bgr", (0, 0, 0), (1, 1, 1))
    assert host.view.input.dtype == "uint8"
    assert "# the input is uint8" in (tmp_path / "model.toml").read_text(encoding="utf-8")


def test_mediapipe_hand(tmp_path: Path, splite: Splite) -> None:
    result = splite("init", mediapipe_hand(tmp_path / "hand.onnx"), "--like", "mediapipe-hand")
    assert result.exit_code == 0, result.output
    spec, host = load_model_toml(tmp_path / "model.toml")
    view = host.view.output("coordinates")
    assert (view.source, view.layout, view.columns) == ("Identity", "N(KC)", ("x", "y", "z"))
    assert host.view.output("scores").source == "Identity_1"  # of the hand's presence, for all keypoints
    assert spec.heads == ("presence", "handedness") and spec.input.rotate_by == (0, 9)
    assert [host.view.output(head).source for head in spec.heads] == ["Identity_1", "Identity_2"]
    assert spec.decoder.depth is not None and spec.decoder.depth.unit == "pixel"
    assert spec.skeleton.keypoint_names[8] == "index_tip" and spec.input.std == (255, 255, 255)
    assert "not read" in result.output and "'Identity_1'" in result.output


def test_a_volume_with_an_axis_of_bins(tmp_path: Path, splite: Splite) -> None:
    """What nobody can know of it are its length, its unit, and where its cells lie."""
    file = volume_net(tmp_path / "volume.onnx")
    result = splite("init", file, "--like", "simplebaseline", "--skeleton", "hand21")
    assert result.exit_code == 0, result.output
    model = tmp_path / "model.toml"
    assert written(model)["decoder"] == {
        "type": "volume",
        "stride": 16.0,
        "bins": 8,
        "beta": 1.0,
        "alignment": "?",
        "score_window": 5,
        "depth_extent": "?",
        "root_keypoint": 9,
        "unit": "?",
        "scale_bones": [[0, 5], [0, 9], [0, 13], [0, 17]],
    }
    text = model.read_text(encoding="utf-8")
    assert "# length of the volume along z in the unit below" in text and '"pixel", pixels of the input' in text
    for key, value in (("alignment", '"centre"'), ("depth_extent", "2.0"), ("unit", '"palm"')):
        text = text.replace(f'{key} = "?"', f"{key} = {value}")
    model.write_text(text, encoding="utf-8")
    spec, host = load_model_toml(model)
    assert spec.decoder.shapes(21, spec.input) == {"volume": (21 * 8, 4, 4)}
    assert host.view.output("volume") == OutputView(layout="NKDHW")


def test_posenet(tmp_path: Path, splite: Splite) -> None:
    fill = ("--color", "rgb", "--mean", "127.5,127.5,127.5", "--std", "127.5,127.5,127.5", "--box-padding", 1)
    result = splite("init", posenet(tmp_path / "posenet.onnx"), *fill, "--pad-value", 0)
    assert result.exit_code == 0, result.output
    spec, host = load_model_toml(tmp_path / "model.toml")
    assert spec.decoder == Offset(stride=129 / 5, alignment="udp", offset_order="yyxx", offset_unit="pixel")
    assert host.view.output("heatmap").activation == "sigmoid" and host.view.output("offset").layout == "NHWC"


def test_coordinates_that_no_scale_reads_are_left_open(tmp_path: Path, splite: Splite) -> None:
    result = splite("init", integral(tmp_path / "net.onnx"), "--like", "hrnet")
    assert result.exit_code == 0 and "decoder.scale" in result.output
    assert "let the network give 0-1" in (tmp_path / "model.toml").read_text(encoding="utf-8")


def test_candidates(tmp_path: Path, splite: Splite) -> None:
    result = splite("init", yolo(tmp_path / "yolo.onnx"), "--like", "yolo-pose")
    assert result.exit_code == 0, result.output
    spec, _ = load_model_toml(tmp_path / "model.toml")
    assert spec.decoder.type == "yolo-pose" and spec.input.pad_value == 114 and spec.keypoint_count == 17
    assert "outputs" not in written(tmp_path / "model.toml")  # one output, as the decoder reads it


def test_a_tflite_file(tmp_path: Path, splite: Splite) -> None:
    pytest.importorskip("ai_edge_litert")
    result = splite("init", FOREIGN, "-o", tmp_path / "model.toml", *FILLED)
    assert result.exit_code == 0, result.output
    _, host = load_model_toml(tmp_path / "model.toml")
    assert host.view.input.layout == "NHWC"
    assert (host.view.output("heatmap").source, host.view.output("heatmap").layout) == ("Identity", "NHWC")
    uint8 = splite("init", FOREIGN.with_name("foreign.uint8.tflite"), "-o", tmp_path / "uint8.toml")
    assert uint8.exit_code == 0, uint8.output
    found = written(tmp_path / "uint8.toml")["input"]
    assert (found["mean"], found["std"]) == ([0, 0, 0], [255, 255, 255])
    assert "the input's integers stand for 0 to 1" in (tmp_path / "uint8.toml").read_text(encoding="utf-8")


class Grey(nn.Module):
    """Of one channel."""

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(image, 4).repeat(1, 17, 1, 1)


def test_a_network_of_one_channel(tmp_path: Path, splite: Splite) -> None:
    file = write_onnx(tmp_path / "grey.onnx", Grey(), torch.zeros(1, 1, 64, 48), ["maps"])
    result = splite("init", file, "--mean", 127.5, "--std", 64, "--box-padding", 1, "--pad-value", 0)
    assert result.exit_code == 0, result.output
    found = written(tmp_path / "model.toml")
    assert (found["input"]["color"], found["input"]["mean"], found["input"]["std"]) == ("gray", [127.5], [64.0])
    assert 'Fill in what is written as "?" there: decoder.alignment.' in result.output
    assert splite("init", file, "--like", "hrnet", "--overwrite").exit_code == 0
    spec, _ = load_model_toml(tmp_path / "model.toml")
    assert (spec.input.color, spec.input.mean, spec.input.std) == ("gray", (123.675,), (58.395,))


class Stages(nn.Module):
    """A number, and a list of maps."""

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        maps = nn.functional.avg_pool2d(image, 4).repeat(1, 7, 1, 1)[:, :20] * 3
        return image.mean(), (maps * 0.5, maps)


def test_a_path_into_what_torch_gives(tmp_path: Path, splite: Splite) -> None:
    with quiet():
        torch.jit.save(torch.jit.trace(Stages(), torch.zeros(1, 3, 64, 48)), tmp_path / "stages.ts")  # type: ignore[no-untyped-call]
    refused = splite("init", tmp_path / "stages.ts", "--input", "64x48")
    assert refused.exit_code == 1 and "--trust" in refused.output
    result = splite("init", tmp_path / "stages.ts", "--input", "64x48", "--trust")
    assert result.exit_code == 0, result.output
    assert written(tmp_path / "model.toml")["outputs"]["heatmap"]["source"] == [1, -1]
    assert "--trust" in result.output.splitlines()[-1]
    weights_by_name = (tmp_path / "stages.ts").rename(tmp_path / "stages.pt")
    refused = splite("inspect", weights_by_name)
    assert refused.exit_code == 1 and "is a TorchScript archive; it was not loaded" in refused.output
    result = splite("inspect", weights_by_name, "--input", "64x48", "--trust")
    assert result.exit_code == 0 and "heatmap, 20 keypoints" in " ".join(result.output.split()), result.output


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("none.onnx",), "There is no file none.onnx.", "Name a checkpoint"),
        (("{movenet}", "--input", "32x32"), "The network takes 64 x 64, not 32 x 32.", "Leave out --input"),
        (("{movenet}", "--arch", "a.py:b"), "brings its own architecture", "Leave out --arch"),
        (("{movenet}", "--like", "movenet", "--mean", "1,2"), "input.mean is [1.0, 2.0]", "Correct the value"),
        (("{movenet}", "--skeleton", "halpe26"), "halpe26 has 26 keypoints, and the network gives 17", "coco17"),
    ],
)
def test_refusals(arguments: tuple[str, ...], message: str, hint: str, tmp_path: Path, splite: Splite) -> None:
    file = movenet(tmp_path / "m.onnx")
    result = splite("init", *(part.format(movenet=file) for part in arguments), "-o", tmp_path / "made.toml")
    assert result.exit_code == 1, result.output
    assert message in result.output and hint in result.output
    assert not (tmp_path / "made.toml").exists()


def test_a_family_that_gives_something_else_is_said(tmp_path: Path, splite: Splite) -> None:
    result = splite("init", movenet(tmp_path / "m.onnx"), "--like", "rtmpose")
    assert result.exit_code == 0, result.output
    said = "Networks like rtmpose give a pair of bins along x and y, and this one gives coordinates"
    assert said in " ".join(result.output.split())
    assert written(tmp_path / "model.toml")["decoder"]["type"] == "coordinates"


def test_inspect_says_the_same_without_writing(tmp_path: Path, splite: Splite) -> None:
    file = movenet(tmp_path / "net.onnx")
    shown = splite("inspect", file)
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert "taken for coordinates, 17 keypoints" in text and "opset 17" in text and "input: 1 x 64 x 64 x 3" in text
    assert list(tmp_path.iterdir()) == [file]
    told = json.loads(splite("inspect", file, "--json", "-").stdout)
    assert told["found"]["reading"]["kind"] == "coordinates" and told["file"]["opset"] == 17


def test_inspect_runs_weights_with_an_architecture(weights: Path, splite: Splite) -> None:
    shown = splite("inspect", weights, "--arch", f"{TINY}/arch.py:build", "--input", "64x48")
    assert shown.exit_code == 0, shown.output
    assert "output 1: maps of 4 input pixels per cell" in " ".join(shown.output.split())
    assert list(weights.parent.iterdir()) == [weights]


@pytest.mark.parametrize("name", ["float32", "uint8", "float16", "dynamic-range", "half-input", "signed"])
def test_inspect_of_tflite_files(name: str, splite: Splite) -> None:
    pytest.importorskip("ai_edge_litert")
    shown = splite("inspect", FOREIGN.with_name(f"foreign.{name}.tflite"))
    assert shown.exit_code == 0, shown.output
    assert "taken for heatmap, 5 keypoints" in " ".join(shown.output.split())


def test_inspect_refuses_options_that_do_nothing(weights: Path, tmp_path: Path, splite: Splite) -> None:
    refused = splite("inspect", weights, "--like", "hrnet")
    assert refused.exit_code == 1 and "--like is for a network that is run" in refused.output
    assert "--arch" in refused.output
    refused = splite("inspect", movenet(tmp_path / "net.onnx"), "--layers")
    assert refused.exit_code == 1 and "are for bundles and checkpoints" in refused.output


def test_a_file_needs_no_training_framework(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    blocked = ["torch", "onnx", "onnx_ir", "onnxsim", "onnxscript", "tensorflow", "safetensors"]
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); from splite_deploy.cli import main; main()"
    for command in (("init", FOREIGN, "-o", tmp_path / "model.toml"), ("inspect", FOREIGN)):
        ran = [sys.executable, "-c", code, *map(str, command)]
        done = subprocess.run(ran, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "taken for" in done.stdout
    assert written(tmp_path / "model.toml")["outputs"]["heatmap"]["layout"] == "NHWC"


def test_heatmaps_that_the_family_does_not_have_are_said(tmp_path: Path, splite: Splite) -> None:
    result = splite("init", integral_heatmaps(tmp_path / "net.onnx"), "--like", "hrnet")
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())
    assert "like hrnet hold unit peaks, and these hold numbers of any size" in told
    assert "without --like it is 'softargmax'" in told
    assert written(tmp_path / "model.toml")["decoder"]["type"] == "argmax"


def test_what_nobody_can_know_of_outputs_is_left_to_the_user(tmp_path: Path, splite: Splite) -> None:
    class Bins(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            rows = image.repeat(1, 6, 1, 1)[:, :17]
            return rows.mean(2), rows.amax(3)

    file = write_onnx(tmp_path / "net.onnx", Bins(), torch.zeros(1, 3, 64, 64), ["first", "second"])
    result = splite("init", file, *FILLED[:-2])
    assert result.exit_code == 0, result.output
    assert "outputs.simcc_x.source, outputs.simcc_y.source" in " ".join(result.output.split())
    model = tmp_path / "model.toml"
    assert "# 'first' or 'second', as the network's code or paper says" in model.read_text(encoding="utf-8")
    with pytest.raises(SpecError, match=r"2 fields to be filled in.*outputs\.simcc_x\.source"):
        load_model_toml(model)
    text = (
        model.read_text(encoding="utf-8")
        .replace('source = "?"', 'source = "second"', 1)
        .replace('source = "?"', 'source = "first"')
    )
    model.write_text(text, encoding="utf-8")
    _, host = load_model_toml(model)
    assert host.view.output("simcc_x").source == "second"


def test_fields_of_limbs_beside_heatmaps(tmp_path: Path, splite: Splite) -> None:
    outs = {"hm": Out((19, 16, 12), -0.02, 0.9), "paf": Out((38, 16, 12), -1, 1)}
    file = write_onnx(tmp_path / "net.onnx", Strange(outs), torch.zeros(1, 3, 64, 48), list(outs))
    result = splite("init", file, "--like", "hrnet", "--skeleton", "coco17")
    assert result.exit_code == 0, result.output
    _, host = load_model_toml(tmp_path / "model.toml")
    assert (host.view.output("heatmap").source, dict(host.view.output("heatmap").slice)) == ("hm", {"C": (0, 17)})


def test_heatmaps_of_which_two_fit_are_left_to_the_user(tmp_path: Path, splite: Splite) -> None:
    outs = {"a": Out((7, 16, 12), -1, 1), "b": Out((12, 16, 12), -1, 1)}
    file = write_onnx(tmp_path / "net.onnx", Strange(outs), torch.zeros(1, 3, 64, 48), list(outs))
    result = splite("init", file, "--like", "hrnet")
    assert result.exit_code == 0, result.output
    asked = 'Fill in what is written as "?" there: outputs.heatmap.source, skeleton.preset. Then:'
    assert asked in " ".join(result.output.split())
    assert "'a' (7 maps) or 'b' (12 maps)" in (tmp_path / "model.toml").read_text(encoding="utf-8")


def _four(folder: Path) -> Path:
    np.savez(folder / "four.npz", input=np.zeros((4, 3, 64, 48), np.float32))
    return folder / "four.npz"


@pytest.mark.parametrize("batch", [4, "program"])
def test_a_fixed_batch_of_several(batch: Any, tmp_path: Path, splite: Splite) -> None:
    outs = {"hm": Out((17, 16, 12), -0.02, 0.9)}
    if batch == "program":
        file = tmp_path / "net.pt2"
        with quiet():
            torch.export.save(torch.export.export(Strange(outs).eval(), (torch.zeros(4, 3, 64, 48),)), file)
    else:
        file = write_onnx(tmp_path / "net.onnx", Strange(outs), torch.zeros(4, 3, 64, 48), list(outs))
    result = splite("init", file, "--like", "hrnet", *(["--trust"] if batch == "program" else []))
    assert result.exit_code == 0, result.output
    spec, _ = load_model_toml(tmp_path / "model.toml")
    assert (spec.keypoint_count, spec.input.height, spec.input.width) == (17, 64, 48)
    if batch == "program":
        return
    assert splite("inspect", file).exit_code == 0
    alone = splite("bench", file, "--inputs", _four(tmp_path), "--frames", 12, "--warmup", 1, "--json", "-")
    assert alone.exit_code == 0 and json.loads(alone.stdout)["batch"] == 4, alone.output
    for many in (1, 3, 4, 6):
        timed = splite("bench", file, "--frames", 12, "--warmup", 1, "--threads", 1, "--batch", many, "--json", "-")
        assert timed.exit_code == 0, timed.output
        told = json.loads(timed.stdout)
        assert told["batch"] == many and told["startup"]["first_inference_ms"] > 0


def changed_graph(path: Path, change: Callable[[Any], Any]) -> Path:
    """A graph of heatmaps, changed by ``change``."""
    onnx = pytest.importorskip("onnx")
    outs = {"hm": Out((17, 16, 12), -0.02, 0.9)}
    write_onnx(path, Strange(outs), torch.zeros(1, 3, 64, 48), list(outs))
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))
    return path


def also(kind: str, attributes: dict[str, Any] | None = None, *, sequence: bool = False, alone: bool = True) -> Any:
    """Changes a graph: one more node behind the heatmaps, whose output is that of the graph, alone or beside them."""

    def change(model: Any) -> None:
        from onnx import TensorProto, helper

        node = helper.make_node(kind, ["hm"], ["more"], **(attributes or {}))
        made = helper.make_tensor_value_info("more", TensorProto.FLOAT, None)
        if sequence:
            made = helper.make_tensor_sequence_value_info("more", TensorProto.FLOAT, None)
        model.graph.node.append(node)
        if alone:
            del model.graph.output[:]
        model.graph.output.append(made)

    return change


def outputs_gone(model: Any) -> None:
    del model.graph.output[:]


def inputs_gone(model: Any) -> None:
    del model.graph.input[:]


def own_operator(model: Any) -> None:
    from onnx import helper

    also("Foo", {"domain": "my"})(model)
    model.opset_import.append(helper.make_opsetid("my", 1))


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (
            also("SequenceConstruct", sequence=True),
            "no output that is a tensor of numbers; it has 'more', seq(",
            "again",
        ),
        (outputs_gone, "net.onnx has no output that is a tensor of numbers.", "so that its outputs are tensors"),
        (own_operator, "cannot load net.onnx", "The operator my:Foo is not of ONNX"),
        (inputs_gone, "cannot load net.onnx", "The graph is not valid ONNX"),
        (also("Log"), "'more' holds NaN or infinite numbers for 3 of 3 pictures", "export it again"),
    ],
)
def test_graphs_that_nothing_can_be_learnt_from(
    change: Any, message: str, hint: str, tmp_path: Path, splite: Splite
) -> None:
    file = changed_graph(tmp_path / "net.onnx", change)
    for command in ("init", "inspect"):
        result = splite(command, file)
        told = " ".join(result.output.split())
        assert result.exit_code == 1 and message in told and hint in told, told
    assert not (tmp_path / "model.toml").exists()


def test_a_sequence_beside_heatmaps_is_not_read(tmp_path: Path, splite: Splite) -> None:
    file = changed_graph(tmp_path / "net.onnx", also("SequenceConstruct", sequence=True, alone=False))
    result = splite("init", file, "--like", "hrnet")
    assert result.exit_code == 0, result.output
    assert "the output 'more' is no tensor of numbers (seq(" in " ".join(result.output.split())


def test_an_opset_that_export_refuses_is_said(tmp_path: Path, splite: Splite) -> None:
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper, save

    weights = np.random.default_rng(0).normal(size=(17, 3, 4, 4)).astype(np.float32)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", [1, 3, 64, 48]), ("hm", [1, 17, 16, 12]))
    ]
    node = helper.make_node("Conv", ["image", "w"], ["hm"], strides=[4, 4])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    file = tmp_path / "net.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=4), str(file))
    said = "The graph has opset 8: run, bench and verify take the file, and export needs 9 or later."
    result = splite("init", file, *FILLED)
    assert result.exit_code == 0 and said in " ".join(result.output.split()), result.output
    assert f"splite-deploy verify {file} --model" in result.output and "splite-deploy export" not in result.output
    assert said in " ".join(splite("inspect", file).output.split())


def test_one_keypoint(tmp_path: Path, splite: Splite) -> None:
    outs = {"hm": Out((1, 16, 12), -0.02, 0.9)}
    file = write_onnx(tmp_path / "net.onnx", Strange(outs), torch.zeros(1, 3, 64, 48), list(outs))
    unknown = splite("init", file)
    assert "nothing known: say what it is with --kind" in " ".join(unknown.output.split())
    result = splite("init", file, "--kind", "heatmap", *FILLED, "--overwrite")
    assert result.exit_code == 0, result.output
    spec, _ = load_model_toml(tmp_path / "model.toml")
    assert spec.keypoint_count == 1


def test_an_alignment_of_coordinates_is_said_to_be_of_no_use(tmp_path: Path, splite: Splite) -> None:
    result = splite("init", movenet(tmp_path / "net.onnx"), "--like", "movenet", "--alignment", "udp")
    assert result.exit_code == 0, result.output
    said = "--alignment is for heatmaps, and this network gives coordinates: it was not used"
    assert said in " ".join(result.output.split())


def test_keypoints_of_two_data_sets_are_left_to_the_user(tmp_path: Path, splite: Splite) -> None:
    file = write_onnx(tmp_path / "net.onnx", Strange({"out": Out((14, 16, 12))}), torch.zeros(1, 3, 64, 48), ["out"])
    result = splite("init", file, "--like", "hrnet")
    assert 'Fill in what is written as "?" there: skeleton.preset. Then:' in result.output
    text = (tmp_path / "model.toml").read_text(encoding="utf-8")
    assert '"aic14": a person as AI Challenger labels it; "crowdpose14"' in text
    assert splite("init", file, "--like", "hrnet", "--skeleton", "crowdpose14", "--overwrite").exit_code == 0
    spec, _ = load_model_toml(tmp_path / "model.toml")
    assert spec.skeleton.keypoint_names[12] == "top_head"


@pytest.mark.parametrize(
    ("scale", "zero_point", "dtype", "mean", "std"),
    [
        (1 / 255, 0, "uint8", [0, 0, 0], [255, 255, 255]),
        (1 / 255, -128, "int8", [0, 0, 0], [255, 255, 255]),
        (1 / 127.5, 0, "int8", [127.5, 127.5, 127.5], [127.5, 127.5, 127.5]),
        (1.0, -128, "int8", [0, 0, 0], [1, 1, 1]),
        (1 / 255, 0, "int8", "?", "?"),  # -0.5 to 0.5
    ],
)
def test_what_integers_stand_for_is_the_normalisation(
    scale: float, zero_point: int, dtype: str, mean: Any, std: Any, tmp_path: Path, splite: Splite
) -> None:
    file = quantised_tflite(tmp_path / "net.tflite", dtype, scale, zero_point)
    result = splite("init", file)
    assert result.exit_code == 0, result.output
    found = written(tmp_path / "model.toml")["input"]
    assert (found["mean"], found["std"]) == (mean, std)


def quantised_tflite(path: Path, dtype: str, scale: float, zero_point: int) -> Path:
    """A heatmap of 17 keypoints behind a quantised input, which is dequantised first."""
    pytest.importorskip("ai_edge_litert")
    from ai_edge_litert import schema_py_generated as schema
    from tflite_networks import TfliteNetwork

    network = TfliteNetwork(1, 16, 16, 3)
    image = network.graph.tensors[network.image]
    image.type = getattr(schema.TensorType, dtype.upper())
    image.quantization = schema.QuantizationParametersT()
    image.quantization.scale, image.quantization.zeroPoint = [scale], [zero_point]
    floats = network.add("DEQUANTIZE", [network.image], (1, 16, 16, 3), "floats", schema.DequantizeOptionsT())
    path.write_bytes(network.content(network.conv(floats, 17, name="heatmap")))
    return path


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("99999999999x1", "a side has at most 4096 pixels"),
        (f"{'9' * 5000}x3", "a side has at most 4096 pixels"),
        ("0x5", "'0x5' is not HxW in pixels, for example 256x192."),
        ("\u0663x5", "is not HxW in pixels"),
    ],
)
def test_a_size_that_no_network_has(splite: Callable[..., Result], size: str, message: str) -> None:
    done = splite("init", "net.onnx", "--input", size)
    assert done.exit_code == 2 and message in " ".join(done.stderr.split())
