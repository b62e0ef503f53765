"""One image file at a time: what a mode, a tag or a damage does to the pixels, or which sentence refuses it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ciperlib.data import DataError
from ciperlib.data.photographs import read_images, read_masks
from ciperlib.data.pictures import digest, pillow_in_order, read_mask, read_picture

CORNERS = np.zeros((16, 16, 3), np.uint8)  # no two of its eight turns and mirror images are the same
CORNERS[:8, :8], CORNERS[:8, 8:], CORNERS[8:, :8] = (250, 10, 10), (10, 250, 10), (10, 10, 250)
STORED = {  # by EXIF orientation: the upright picture as it lies in the file
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def pixels(path) -> np.ndarray:
    """As a loader reads them: warnings of Pillow are errors here, as in all tests."""
    with pillow_in_order():
        return np.asarray(read_picture(path)).astype(int)


def png(values: np.ndarray, colour: int, key: tuple[int, ...] = ()) -> bytes:
    """A PNG of 16 bits a channel, [H, W, channels]; colour is 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    transparent = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    chunks = (chunk(b"IHDR", header), transparent, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(values: np.ndarray, sample_format: int = 1) -> bytes:
    """An uncompressed TIFF, [H, W] or [H, W, 3], in the array's own depth."""
    height, width, *rest = values.shape
    channels, bits = (rest or [1])[0], values.dtype.itemsize * 8
    content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, bits), (259, 3, 1, 1),
        (262, 3, 1, 2 if channels == 3 else 1), (273, 4, 1, 8), (277, 3, 1, channels), (278, 3, 1, height),
        (279, 4, 1, len(content)), (339, 3, channels, sample_format),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    after = 8 + len(content) + 2 + 12 * len(entries) + 4
    extra = b""
    for tag, kind, count, value in entries:
        if count == 3:
            directory += struct.pack("<HHII", tag, kind, count, after + len(extra))
            extra += struct.pack("<3H", value, value, value)
        else:
            directory += struct.pack("<HHII", tag, kind, count, value)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory + b"\0" * 4 + extra


# ---- right


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("ending", "options"),
    [("png", {}), ("tif", {}), ("webp", {"lossless": True}), ("jpg", {"quality": 95, "subsampling": 0})],
)
def test_a_picture_is_upright_whatever_its_file_says(tmp_path, orientation, ending, options):
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](CORNERS))).save(
        tmp_path / f"p.{ending}", exif=tags, **options
    )
    assert np.abs(pixels(tmp_path / f"p.{ending}") - CORNERS).max() <= (12 if ending == "jpg" else 0)


@pytest.mark.parametrize("tags", [b"Exif\0\0no tags at all", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_damaged_tags_do_not_spoil_a_picture(tmp_path, tags):
    Image.fromarray(CORNERS).save(tmp_path / "p.jpg", quality=95, subsampling=0, exif=tags)
    assert np.abs(pixels(tmp_path / "p.jpg") - CORNERS).max() <= 12


def test_a_wrong_tag_beside_the_orientation_does_not_matter(tmp_path):
    """A resolution that is a text: Pillow's own `exif_transpose` ends in a TypeError."""
    entries = struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0") + struct.pack("<HHII", 0x0112, 3, 1, 6)
    tags = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](CORNERS)))
    stored.save(tmp_path / "p.jpg", quality=95, subsampling=0, exif=tags)
    assert np.abs(pixels(tmp_path / "p.jpg") - CORNERS).max() <= 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "key"])
def test_colours_hidden_by_transparency_are_not_used(tmp_path, mode):
    generator = np.random.default_rng(0)
    alpha = (np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)
    for i in range(2):
        hidden = generator.integers(0, 200, (16, 16, 3), dtype=np.uint8)
        colours = np.where(alpha[..., None] > 0, np.uint8([40, 80, 120]), hidden)
        path = tmp_path / f"{i}.png"
        if mode in ("RGBA", "LA"):
            Image.fromarray(np.dstack([colours, alpha])).convert(mode).save(path)
        elif mode == "PA":
            path = tmp_path / f"{i}.webp"
            Image.fromarray(np.dstack([colours, alpha])).save(path, lossless=True, exact=True)
        elif mode == "P":  # a palette of which all entries but the first are transparent
            image = Image.fromarray((alpha == 0) * np.uint8(1 + 2 * i), mode="P")
            image.putpalette([40, 80, 120, *hidden[0, :3].flatten()])
            image.save(path, transparency=b"\xff\0\0\0")
        else:
            key = tuple(map(int, hidden[0, 0]))
            Image.fromarray(np.where(alpha[..., None] > 0, colours, np.uint8(key))).save(path, transparency=key)
        read = pixels(path)
        assert (read[alpha == 0] == 255).all()
        expected = [40, 80, 120] if mode != "LA" else [73, 73, 73]
        assert np.abs(read[alpha > 0] - expected).max() <= 1


def test_half_transparent_pixels_are_half_white(tmp_path):
    generator = np.random.default_rng(1)
    rgba = generator.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "p.png")
    alpha = rgba[..., 3:] / 255
    assert np.abs(pixels(tmp_path / "p.png") - (alpha * rgba[..., :3] + (1 - alpha) * 255)).max() <= 1.001


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_a_png_run_from_0_to_65535(tmp_path, colour, channels):
    values = np.random.default_rng(colour).integers(0, 65536, (16, 16, channels))
    values[0, 0], values[0, 1] = 0, 65535
    if channels in (2, 4):
        values[..., -1] = 65535
    (tmp_path / "p.png").write_bytes(png(values, colour))
    grey = values[..., :1] if channels < 3 else values[..., :3]
    assert np.abs(pixels(tmp_path / "p.png") - grey / 257).max() <= (0.5 if channels == 1 else 1)


def test_a_transparent_value_among_sixteen_bits(tmp_path):
    values = np.array([[0, 300, 301, 65535]])[..., None]
    (tmp_path / "p.png").write_bytes(png(values, 0, key=(300,)))
    assert pixels(tmp_path / "p.png")[0, :, 0].tolist() == [0, 255, 1, 255]
    (tmp_path / "p.png").write_bytes(png(np.full((1, 1, 3), 65535), 2, key=(65535, 65535, 65535)))
    with pytest.raises(DataError, match="transparent colour in 16 bits"):
        pixels(tmp_path / "p.png")


@pytest.mark.parametrize(
    ("ending", "mode"),
    [("png", mode) for mode in ("1", "L", "P", "RGB")]
    + [("gif", mode) for mode in ("1", "L", "P")]
    + [("bmp", mode) for mode in ("1", "L", "P", "RGB")]
    + [("tif", mode) for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr")]
    + [("jpg", mode) for mode in ("L", "RGB", "CMYK", "YCbCr")],
)
def test_modes_of_eight_bits_and_fewer(tmp_path, mode, ending):
    black_and_white = np.repeat((np.indices((32, 32)).sum(0) // 16 % 2 * 255).astype(np.uint8)[..., None], 3, 2)
    picture = Image.fromarray(black_and_white).convert(mode)
    picture.save(tmp_path / f"p.{ending}")
    difference = np.abs(pixels(tmp_path / f"p.{ending}") - black_and_white)
    assert difference.max() <= (60 if ending == "jpg" else 0)
    assert difference.mean() < 4


def test_of_a_phone_s_several_pictures_the_first_is_the_photograph(tmp_path):
    first = Image.fromarray(CORNERS)
    first.save(tmp_path / "p.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))], quality=95)
    with Image.open(tmp_path / "p.jpg") as file:
        assert file.n_frames == 2
    assert np.abs(pixels(tmp_path / "p.jpg") - CORNERS).mean() < 12


def test_a_picture_is_its_pixels_in_whatever_file(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    names = ("a.png", "a.tif", "a.bmp", "a.webp", "a.ppm")
    for name in names:
        picture.save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    tags = Image.Exif()
    tags[0x0112] = 3
    picture.rotate(180).save(tmp_path / "turned.png", exif=tags)
    digests = {digest(read_picture(tmp_path / name)) for name in (*names, "turned.png")}
    assert len(digests) == 1
    picture.putpixel((3, 3), tuple(c ^ 1 for c in picture.getpixel((3, 3))))
    assert digest(picture) not in digests
    flat = Image.new("RGB", (2, 8)), Image.new("RGB", (4, 4))
    assert digest(flat[0]) != digest(flat[1])


# ---- refused


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiff(np.full((8, 8), 987, np.uint16)), r"mode I;16 \(16 bits\) between 987 and 987"),
        (tiff(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040), "mode I;16 .* between 0 and 65520"),
        (tiff(np.arange(64, dtype=np.int16).reshape(8, 8) - 9, 2), r"mode I \(16 bits, signed\) between -9 and 54"),
        (tiff(np.arange(64, dtype=np.int32).reshape(8, 8), 2), r"mode I \(32 bits, signed\)"),
        (tiff(np.arange(64, dtype=np.uint32).reshape(8, 8)), r"mode I \(32 bits\)"),
        (tiff(np.arange(64, dtype=np.float32).reshape(8, 8) / 64, 3), r"mode F \(32 bits\) between 0 and 0.984"),
        (tiff(np.full((8, 8), np.nan, np.float32), 3), "mode F"),
        (tiff(np.arange(64, dtype=np.int8).reshape(8, 8), 2), r"mode L \(8 bits, signed\)"),
        (tiff(np.full((8, 8, 3), 987, np.uint16)), r"mode RGB \(16 bits\)"),
        (b"P5 2 2 65535\n" + bytes(8), "mode I"),
        (png(np.full((8, 8, 1), 4095), 0), r"mode I;16 in 16 bits and uses less than a sixteenth"),
        (png(np.full((8, 8, 1), 200), 0), "less than a sixteenth"),
        (png(np.full((8, 8, 3), 4095), 2), "mode RGB in 16 bits and uses less than a sixteenth"),
        (png(np.full((8, 8, 3), 200), 2), "less than a sixteenth"),
    ],
)
def test_pixels_of_an_unknown_scale_are_refused_by_mode(tmp_path, content, words):
    (tmp_path / "p").write_bytes(content)
    for read in (read_images, read_masks):
        with pytest.raises(DataError, match=rf"{tmp_path}/p .*{words}.* 8 bits"):
            read([tmp_path / "p"], 2)


def test_a_black_picture_of_sixteen_bits_is_black(tmp_path):
    (tmp_path / "p.png").write_bytes(png(np.zeros((8, 8, 1), int), 0))
    assert not pixels(tmp_path / "p.png").any()


def test_a_mode_that_is_no_colour_is_refused_by_name(tmp_path):
    Image.new("LAB", (8, 8)).save(tmp_path / "p.tif")
    with pytest.raises(DataError, match="mode LAB"):
        pixels(tmp_path / "p.tif")


@pytest.mark.parametrize("ending", ["gif", "png", "tif", "webp"])
def test_several_frames_are_refused(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / f"p.{ending}", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=rf"p\.{ending} has 3 frames"):
        pixels(tmp_path / f"p.{ending}")


@pytest.mark.parametrize("limit", [100, 200])
def test_more_pixels_than_pillow_allows(tmp_path, monkeypatch, limit):
    """Above its limit Pillow warns, above twice that it raises: both are one sentence, and nothing is decoded."""
    Image.new("RGB", (16, 16)).save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match=rf"p\.png has 256 pixels, more than the {limit}"):
        read_images([tmp_path / "p.png"], 16)


def test_a_small_file_that_claims_to_be_huge(tmp_path):
    content = bytearray(png(np.zeros((1, 1, 1), int), 0))
    content[16:24] = struct.pack(">II", 10**6, 10**6)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(DataError, match=r"p\.png has 1,000,000,000,000 pixels"):
        read_images([tmp_path / "p.png"], 16)


def damaged(kind: str, path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no picture\n" * 20)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "circle":
        path.symlink_to(path)
    elif kind == "program":  # Pillow would hand it to Ghostscript
        noise.save(path, "EPS")
    elif kind != "missing":
        whole = io.BytesIO()
        noise.save(whole, kind)
        path.write_bytes(whole.getvalue()[: len(whole.getvalue()) * 2 // 3])


@pytest.mark.parametrize(
    "kind",
    [
        *("missing", "folder", "empty", "text", "pipe", "circle", "program"),
        *("JPEG", "PNG", "TIFF", "GIF", "WEBP", "PPM", "BMP"),  # cut off
    ],
)
def test_a_file_that_is_no_picture_is_one_sentence(tmp_path, kind):
    damaged(kind, tmp_path / "p.png")
    with pytest.raises(DataError, match=rf"{tmp_path}/p\.png cannot be read \(.*get it again") as caught:
        read_images([tmp_path / "p.png"], 16, ["factors.csv, line 2"])
    assert str(caught.value).startswith("factors.csv, line 2: ")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    damaged("text", tmp_path / "p.png")
    (tmp_path / "p.png").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        read_images([tmp_path / "p.png"], 16)


WHOLE = {}
for _kind in ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"):
    _file = io.BytesIO()
    Image.fromarray(CORNERS).save(_file, _kind)
    WHOLE[_kind] = _file.getvalue()


@given(st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_change_there_is_a_picture_or_a_sentence(tmp_path, kind, changes):
    content = bytearray(WHOLE[kind])
    for place, byte in changes:
        content[place % len(content)] = byte
    (tmp_path / "p").write_bytes(content)
    with suppress(DataError):
        assert pixels(tmp_path / "p").shape[2] == 3


# ---- masks


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA"])
def test_masks_are_white_on_the_object_and_black_where_transparent(tmp_path, mode):
    half = np.zeros((8, 8, 4), np.uint8)
    half[:, :4] = 255
    half[:, 4:, :3] = 255 if mode in ("RGBA", "LA") else 0  # white that is hidden
    Image.fromarray(half).convert(mode if mode in ("RGBA", "LA") else "RGB").convert(mode).save(tmp_path / "m.png")
    mask = read_masks([tmp_path / "m.png"], 8)[0]
    assert mask[:, :4].all()
    assert not mask[:, 4:].any()


def test_masks_of_sixteen_bits_are_scaled_and_masks_of_ones_refused(tmp_path):
    (tmp_path / "m.png").write_bytes(png(np.tile([0, 65535], (2, 1))[..., None], 0))
    assert read_masks([tmp_path / "m.png"], 2)[0].tolist() == [[False, True]] * 2
    for brightest in (1, 127):
        Image.fromarray(np.uint8([[0, brightest]] * 2)).save(tmp_path / "m.png")
        with pytest.raises(DataError, match=rf"m\.png is no mask: its brightest pixel is {brightest} of 255"):
            read_mask(tmp_path / "m.png")
    Image.new("L", (2, 2)).save(tmp_path / "m.png")
    assert not read_masks([tmp_path / "m.png"], 2).any()  # the object is out of sight
