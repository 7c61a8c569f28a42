"""Pictures as people have them: of any depth, turned, cut, too wide, too large, and in folders with other things."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

from splite_deploy.errors import InputError, OutputError, UsageError
from splite_deploy.runtime.io.images import boxed_images, image_files, read_image, write_image
from splite_deploy.runtime.io.notes import collecting_notes
from splite_deploy.runtime.io.picture_header import read_header
from splite_deploy.runtime.preprocess import crop_matrix, warp
from splite_deploy.spec import InputSpec

Run = Callable[..., Result]
HEIGHT, WIDTH = 40, 60


def picture() -> NDArray[np.uint8]:
    """Smooth, and different in every corner."""
    small = np.random.default_rng(3).integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def encoded(suffix: str, pixels: NDArray[np.generic]) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix == ".jpg" else []
    done, data = cv2.imencode(suffix, pixels, flags)
    assert done
    return data.tobytes()


# --- turned ---


def exif(turn: int, order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 274, 3, 1, turn, 0, 0)


def turned(suffix: str, turn: int, order: str = "<") -> bytes:
    """The picture with an orientation, as a camera writes it: the stored pixels stay."""
    data = encoded(suffix, picture())
    if suffix == ".jpg":
        body = b"Exif\0\0" + exif(turn, order)
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    if suffix == ".png":
        body = b"eXIf" + exif(turn, order)
        return data[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]
    if suffix == ".webp":
        body = exif(turn, order)
        extended = struct.pack("<4sIB3x", b"VP8X", 10, 0x08) + b"".join(
            (size - 1).to_bytes(3, "little") for size in (WIDTH, HEIGHT)
        )
        rest = extended + data[12:] + struct.pack("<4sI", b"EXIF", len(body)) + body + b"\0" * (len(body) % 2)
        return b"RIFF" + struct.pack("<I", len(rest) + 4) + b"WEBP" + rest
    return tiff(picture()[..., ::-1], turn=turn, order=order)


def tiff(
    pixels: NDArray[np.generic], *, turn: int = 1, order: str = "<", more: tuple[tuple[int, int], ...] = ()
) -> bytes:
    """An uncompressed TIFF file of RGB or grey pixels; ``more`` are further entries of one whole number."""
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    bits, data = 8 * pixels.dtype.itemsize, pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    entries = {256: pixels.shape[1], 257: pixels.shape[0], 258: bits, 259: 1, 262: 2 if samples == 3 else 1}
    entries |= {273: 512, 274: turn, 277: samples, 278: pixels.shape[0], 279: len(data), 284: 1, **dict(more)}
    table = struct.pack(order + "H", len(entries))
    for tag, value in sorted(entries.items()):
        if tag == 258 and samples == 3:
            table += struct.pack(order + "HHII", tag, 3, 3, 480)
        else:
            table += struct.pack(order + "HHII", tag, 4, 1, value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + table + bytes(4)
    return head.ljust(480, b"\0") + struct.pack(order + "3H", bits, bits, bits).ljust(32, b"\0") + data


UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, -1)[::-1, :][:, ::1],
    8: lambda a: np.rot90(a),
}
"""By EXIF 2.3, section 4.6.4: which side of the stored picture is its top and its left."""


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("turn", UPRIGHT)
def test_pictures_are_turned_by_their_orientation(tmp_path: Path, suffix: str, turn: int) -> None:
    for order in "<>":
        (tmp_path / f"a{suffix}").write_bytes(turned(suffix, turn, order))
        found, expected = read_image(tmp_path / f"a{suffix}"), UPRIGHT[turn](picture())
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 8, (suffix, turn, order)


def test_sixteen_bits_are_turned_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(picture()[..., ::-1].astype(np.uint16) * 257, turn=6))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.rot90(picture(), -1))


def test_orientations_that_are_none(tmp_path: Path) -> None:
    for turn in (0, 9, 65535):
        (tmp_path / "a.png").write_bytes(turned(".png", turn))
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture())


def test_reading_takes_room_for_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(".jpg", picture()))
    tracemalloc.start()
    try:
        read_image(tmp_path / "a.jpg")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20, peak


# --- depth and colours ---


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("grey", [False, True])
def test_twelve_bits_in_sixteen_are_not_black(tmp_path: Path, suffix: str, grey: bool) -> None:
    pixels = picture()[..., :1].repeat(3, axis=2) if grey else picture()
    stored = (pixels[..., 0] if grey else pixels).astype(np.uint16)
    (tmp_path / f"a{suffix}").write_bytes(encoded(suffix, stored * 16 + stored // 16))
    with collecting_notes() as notes:
        np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), pixels)
    (said,) = notes
    assert said == "16 bits a sample, of which only 12 are in use: read as pictures of 12 bits"
    assert notes[said] == [tmp_path / f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_read_by_their_upper_eight(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(encoded(suffix, picture().astype(np.uint16) * 257))
    with collecting_notes() as notes:
        np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), picture())
    assert notes == {}


def test_a_file_may_say_how_many_bits_are_in_use(tmp_path: Path) -> None:
    stored = picture().astype(np.uint16) * 64 + 63  # 14 bits
    (tmp_path / "a.tif").write_bytes(tiff(stored[..., ::-1], more=((281, 16383),)))
    data, body = encoded(".png", stored), b"sBIT\x0e\x0e\x0e"
    (tmp_path / "a.png").write_bytes(
        data[:33] + struct.pack(">I", 3) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]
    )
    for suffix in (".tif", ".png"):
        with collecting_notes() as notes:
            np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), picture())
        assert "only 14 are in use" in next(iter(notes))


def test_the_note_is_printed(splite: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / f"{name}.png").write_bytes(encoded(".png", picture().astype(np.uint16) * 16))
    done = splite("run", tiny_bundle, tmp_path)
    assert done.exit_code == 0
    assert done.stderr == (
        "note:  16 bits a sample, of which only 12 are in use: read as pictures of 12 bits: "
        "a.png, b.png, c.png and 2 more\n"
    )


def test_samples_that_are_no_pixels_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "float.tif"), np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60))
    (tmp_path / "whole.tif").write_bytes(tiff(np.arange(2400, dtype=np.uint32).reshape(40, 60)))
    for name, kind in (("float", "floating-point"), ("whole", "32-bit")):
        with pytest.raises(UsageError, match=rf"{name}\.tif has {kind} samples\.") as caught:
            read_image(tmp_path / f"{name}.tif")
        assert caught.value.hint == "Save it with 8 or 16 bits."


def palette_png() -> bytes:
    levels = (picture()[..., 0] // 64).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    colours = bytes(channel for value in (10, 80, 150, 220) for channel in (value, 255 - value, 30))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", head), (b"PLTE", colours), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_a_palette_becomes_colours(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(palette_png())
    value = np.array([10, 80, 150, 220])[picture()[..., 0] // 64]
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.png"), np.stack([0 * value + 30, 255 - value, value], axis=-1)
    )


def test_the_first_of_several_pages_is_read_with_a_note(tmp_path: Path) -> None:
    if not cv2.imwritemulti(str(tmp_path / "a.tif"), [picture(), picture()[::-1]]):
        pytest.skip("this OpenCV writes no pages")
    with collecting_notes() as notes:
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), picture())
    assert notes == {"several pictures in a file: only the first was read": [tmp_path / "a.tif"]}


def test_an_animated_webp_is_refused(tmp_path: Path) -> None:
    data = bytearray(turned(".webp", 1))
    data[20] |= 0x02
    (tmp_path / "a.webp").write_bytes(data)
    with pytest.raises(UsageError, match=r"a\.webp is animated\.") as caught:
        read_image(tmp_path / "a.webp")
    assert "make a video" in caught.value.hint


@pytest.mark.parametrize(
    "data", [b"GIF89a" + bytes(50), b"\0\0\0\x1cftypavif" + bytes(50), b"\0\0\0\x18ftypheic" + bytes(50)]
)
def test_formats_that_only_some_opencv_reads_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(UsageError, match="is not an image that can be read") as caught:
        read_image(tmp_path / "a.jpg")
    assert caught.value.hint == "Use a JPEG, PNG, BMP, WebP or TIFF file."


# --- size ---


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm"])
def test_the_size_is_known_before_decoding(suffix: str) -> None:
    header = read_header(encoded(suffix, picture()))
    assert header is not None and (header.height, header.width, header.bits) == (HEIGHT, WIDTH, 8)
    assert header.whole and header.turn == 1 and header.pictures == 1


def stating(suffix: str, height: int, width: int) -> bytes:
    data = bytearray(encoded(suffix, picture()))
    if suffix == ".png":
        struct.pack_into(">II", data, 16, width, height)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    elif suffix == ".bmp":
        struct.pack_into("<ii", data, 18, width, height)
    elif suffix == ".jpg":
        place = data.index(b"\xff\xc0") + 5
        struct.pack_into(">HH", data, place, height, width)
    else:
        data = bytearray(f"P6 {width} {height} 255\n".encode() + bytes(100))
    return bytes(data)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".ppm"])
def test_a_small_file_that_states_a_huge_picture(splite: Run, tiny_bundle: Path, tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(stating(suffix, 60_000, 60_000))
    done = splite("run", tiny_bundle, tmp_path / f"a{suffix}")
    assert done.exit_code == 1
    assert "states 60000 x 60000 pixels; at most 268,435,456 are read." in done.stderr
    assert "Make it smaller" in done.stderr


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.98])
def test_a_picture_that_is_cut(tmp_path: Path, suffix: str, part: float) -> None:
    data = encoded(suffix, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    (tmp_path / f"a{suffix}").write_bytes(data[: int(part * len(data))])
    with pytest.raises(UsageError, match=r"is cut: its end|is cut or damaged|is not an image that can be read"):
        read_image(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".tif", ".bmp"])
def test_an_uncompressed_picture_that_is_cut(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = encoded(suffix, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for part in (0.1, 0.5, 0.9):
        (tmp_path / f"a{suffix}").write_bytes(data[: int(part * len(data))])
        with pytest.raises(UsageError, match=r"is cut|is not an image that can be read"):
            read_image(tmp_path / f"a{suffix}")
    capfd.readouterr()


def test_a_damaged_jpeg_is_told(
    splite: Run, tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its decoder fills up what it cannot read, and tells of it past Python."""
    data = bytearray(encoded(".jpg", np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)))
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    (tmp_path / "a.jpg").write_bytes(data)
    done = splite("run", tiny_bundle, tmp_path / "a.jpg")
    assert done.exit_code == 1 and len(json.loads(done.stdout)["poses"]) == 1
    said = f"{tmp_path / 'a.jpg'} can be read, but is damaged: parts may be wrong, and so may the keypoints, which were"
    assert done.stderr == f"error: {said} delivered.\nhint:  Copy it again from where it was taken.\n"
    assert capfd.readouterr().err == ""


def test_headers_of_any_length() -> None:
    for suffix in (".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm"):
        data = turned(suffix, 6) if suffix in (".jpg", ".png", ".webp") else encoded(suffix, picture())
        for length in range(0, min(len(data), 600)):
            read_header(data[:length])
        rng = np.random.default_rng(1)
        for _ in range(300):
            spoilt = bytearray(data)
            for place in rng.integers(0, min(len(data), 200), 3):
                spoilt[place] = rng.integers(256)
            read_header(bytes(spoilt))


@pytest.mark.parametrize(("height", "width"), [(20, 40_000), (40_000, 20), (1, 70_000)])
def test_pictures_wider_than_opencv_warps(
    splite: Run, tiny_bundle: Path, tmp_path: Path, height: int, width: int
) -> None:
    cv2.imwrite(str(tmp_path / "wide.png"), np.full((height, width, 3), 90, np.uint8))
    done = splite("run", tiny_bundle, tmp_path / "wide.png", "--box", f"{width - 20},0,{width},{height}")
    assert done.exit_code == 0, done.output
    assert splite("run", tiny_bundle, tmp_path / "wide.png").exit_code == 0


def test_the_crop_of_a_wide_picture_is_that_of_its_part() -> None:
    small = np.random.default_rng(0).integers(0, 256, (8, 4_000, 3), np.uint8)
    image = cv2.resize(small, (40_000, 80), interpolation=cv2.INTER_CUBIC)
    part = np.ascontiguousarray(image[:, 35_000:35_400])
    for x0, x1 in ((100.0, 164.0), (100.25, 300.5), (120.0, 130.0)):
        spec = InputSpec(64, 48, "rgb", (0.0,) * 3, (1.0,) * 3, 1.25, 0)
        crops = [
            warp(picture_, crop_matrix(np.array([x0 + shift, 5, x1 + shift, 70]), spec), 64, 48, 0)
            for picture_, shift in ((image, 35_000), (part, 0))
        ]
        # what is halved begins at another pixel, and OpenCV counts in 1/32 of one
        assert np.abs(crops[0].astype(int) - crops[1]).max() <= 12
        assert crops[0].std() > 20


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    wide = np.zeros((2, 70_000, 3), np.uint8)
    for suffix in (".jpg", ".webp"):
        with pytest.raises(OutputError, match="Cannot encode") as caught:
            write_image(tmp_path / f"a{suffix}", wide)
        assert caught.value.hint == "Save it as .png." and list(tmp_path.iterdir()) == []


# --- folders ---


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).write_bytes(encoded(".png", picture()))
    return path


def test_one_bad_picture_does_not_lose_the_others(splite: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", "a.png", "c.png")
    (folder / "b.png").write_bytes(b"no picture")
    for form in ("json", "coco"):
        done = splite(
            "run", tiny_bundle, folder, "--json", tmp_path / "a.json", "--save", tmp_path / "drawn", "--format", form
        )
        assert done.exit_code == 1
        assert (
            f"error: 1 of 3 images gave no result. {folder / 'b.png'} is not an image that can be read." in done.stderr
        )
        assert "hint:  Use a JPEG, PNG" in done.stderr
        found = json.loads((tmp_path / "a.json").read_text())
        names = [one["image"] for one in found] if form == "json" else [one["file_name"] for one in found["images"]]
        assert names == ["a.png", "c.png"]
        assert sorted(file.name for file in (tmp_path / "drawn").iterdir()) == ["a.png", "c.png"]


def test_a_folder_of_bad_pictures_gives_nothing(splite: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(b"no picture")
    done = splite("run", tiny_bundle, folder, "--json", tmp_path / "a.json")
    assert done.exit_code == 1 and "3 of 3 images gave no result." in done.stderr and "And 1 more." in done.stderr
    assert not (tmp_path / "a.json").exists()


def test_a_box_that_fits_some_pictures(splite: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", "a.png")
    cv2.imwrite(str(folder / "large.png"), np.full((200, 300, 3), 50, np.uint8))
    done = splite("run", tiny_bundle, folder, "--box", "100,100,200,180")
    assert done.exit_code == 1 and [one["image"] for one in json.loads(done.stdout)] == ["large.png"]
    assert f"{folder / 'a.png'}: The box (100, 100, 200, 180) lies outside the 60 x 40 image." in done.stderr


def test_what_systems_leave_in_folders_is_passed_over(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", "a.png", "b c.png", "d:e.png", os.fsdecode(b"\xff.png"))
    for name in ("._a.png", ".hidden.jpg", "Thumbs.db", ".DS_Store", "desktop.ini"):
        (folder / name).write_bytes(b"rubbish")
    (folder / "folder.png").mkdir()
    assert {os.fsencode(file.name) for file in image_files(folder)} == {b"a.png", b"b c.png", b"d:e.png", b"\xff.png"}
    items, origin = boxed_images(folder)
    assert len(items) == 4 and origin == "4 images of set"
    assert all(read_image(file).shape == (HEIGHT, WIDTH, 3) for file, _ in items)


def test_an_empty_folder(splite: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "._a.png").touch()
    done = splite("run", tiny_bundle, tmp_path / "set")
    assert done.exit_code == 1 and "holds no image" in done.stderr and "Images end in .jpg" in done.stderr


def test_what_is_no_picture_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(UsageError, match="is no file") as caught:
            read_image(tmp_path / name)
        assert caught.value.hint == "Name an image file."
    for name in ("a\0.png", f"{'x' * 5000}.png"):
        with pytest.raises(UsageError, match="Cannot read"):
            read_image(Path(name))


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ("nan,0,10,10", "is not four finite numbers"),
        ("0,0,inf,10", "is not four finite numbers"),
        ("10,10,5,20", "is empty"),
        ("10,10,10,20", "is empty"),
        ("100,100,200,200", "lies outside the 60 x 40 image"),
        ("0,0,1e30,1e30", "has an impossible size"),
        ("5,5,5.0000001,6", "has an impossible size"),
        ("1,2,3", "is not four numbers"),
    ],
)
def test_boxes_that_are_none(splite: Run, tiny_bundle: Path, tmp_path: Path, box: str, said: str) -> None:
    file = folder_of(tmp_path, "a.png") / "a.png"
    done = splite("run", tiny_bundle, file, "--box", box)
    assert done.exit_code == (2 if said == "is not four numbers" else 1)
    assert said in done.stderr and "hint:" in done.stderr and done.stdout == ""


def test_a_box_of_half_a_pixel_is_one(splite: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    file = folder_of(tmp_path, "a.png") / "a.png"
    done = splite("run", tiny_bundle, file, "--box", "10.25,10.25,10.75,10.75")
    assert done.exit_code == 0
    assert np.isfinite(json.loads(done.stdout)["poses"][0]["keypoints"]).all()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".jpg", ".webp", ".ppm"])
def test_a_picture_that_is_cut_is_said_to_be(tmp_path: Path, suffix: str) -> None:
    data = encoded(suffix, np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    for length in (200, len(data) // 2, len(data) - 12, len(data) - 3):
        (tmp_path / f"a{suffix}").write_bytes(data[:length])
        with pytest.raises(InputError, match=r"is (a \w+ file that is )?cut") as caught:
            read_image(tmp_path / f"a{suffix}")
        assert caught.value.hint.startswith("Copy it again")


def test_a_text_that_begins_like_a_bitmap_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.bmp").write_text("BMW, a text that is long enough to look like a header of a bitmap")
    with pytest.raises(InputError, match="is not an image that can be read"):
        read_image(tmp_path / "a.bmp")


def test_a_folder_with_a_foreign_and_a_cut_picture(splite: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    (tmp_path / "b.png").write_bytes(encoded(".png", picture())[:-20])
    done = splite("run", tiny_bundle, tmp_path)
    assert done.exit_code == 1
    assert "hint:  Of the first: Use a JPEG, PNG, BMP, WebP or TIFF file. Of the second: Copy it again" in done.stderr


def test_a_folder_of_folders(splite: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    done = splite("run", tiny_bundle, tmp_path / "set")
    assert f"Folders in it are not searched: name one of them, for example {tmp_path / 'set' / 'train'}." in done.stderr
    (tmp_path / "set" / "labels.json").write_text("{}")
    done = splite("run", tiny_bundle, tmp_path / "set")
    assert f"hint:  Name the labels in it: {tmp_path / 'set' / 'labels.json'}." in done.stderr
