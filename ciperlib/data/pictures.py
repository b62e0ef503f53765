"""One image file: upright, opaque and in eight bits a channel, or refused with the reason."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from ciperlib.data.imageset import DataError

# of Pillow's formats those that hold photographs: some of the others start programs (EPS) or draw (WMF)
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
EIGHT_BITS = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", *TRANSPARENT)
TURNS = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
FAINT = 4096  # of 65,536 values: what 12 bits in a file of 16 have


def read_picture(path: Path) -> Image.Image:
    """A photograph as it is meant to be seen: mode RGB, of its own size.

    - It is turned as its EXIF orientation says.
    - What is transparent is white, whatever colour is hidden there.
    - Grey, palettes and CMYK (without its colour profile) become RGB.
    - 16 bits in a PNG run from 0 to 65535 by its standard, and are scaled to 0 to 255; a picture that uses less than a
      sixteenth of that (12 bits in 16) is refused, since next to nothing of it would be left.
    - In other files pixels of more than 8 bits, or signed ones (TIFF; modes I;16, I and F), have no known range, and
      are refused.
    - So are several frames (of a phone's MPO the first is the photograph) and more pixels than `MAX_IMAGE_PIXELS` of
      Pillow, before they are decoded.

    Raises:
        DataError: what is refused, or a file that is missing, empty, damaged or no image of a known kind.
    """
    return _decode(path, "white").convert("RGB")


def read_mask(path: Path) -> Image.Image:
    """A mask, read as `read_picture` reads a photograph, but in mode L, and black where it is transparent.

    Raises:
        DataError: as for `read_picture`, or a mask that is neither black all over nor anywhere white.
    """
    mask = _decode(path, "black").convert("L")
    if 0 < (brightest := mask.getextrema()[1]) <= 127:
        raise DataError(
            f"{path} is no mask: its brightest pixel is {brightest} of 255, and white marks the object; write 255 "
            "where the object is, and 0 elsewhere"
        )
    return mask


def digest(picture: Image.Image) -> bytes:
    """Which picture this is, 32 bytes: of its size and its pixels, so that a copy in another file is the same."""
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()


@contextmanager
def pillow_in_order() -> Iterator[None]:
    """Within it Pillow's warning of too many pixels is an error, and those of tags that do not matter are not shown.

    For the thread that starts the others: filters of warnings are the whole process's.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _decode(path: Path, ground: str) -> Image.Image:
    """The file's picture, upright and opaque, in a mode of eight bits or fewer."""
    if not os.path.isfile(path):  # so that a pipe is not waited for; also a folder, or links in a circle
        raise DataError(f"{path} cannot be read (it is not there, or no file): get it again, or correct its name")
    try:
        with Image.open(path, formats=FORMATS) as file:
            _check_frames(path, file)
            bits = _bits(file)  # which Pillow forgets when it decodes
            return _opaque(_in_eight_bits(path, _upright(file), bits, file.format), ground)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = int(re.search(r"\d+", str(error))[0])
        raise DataError(
            f"{path} has {pixels:,} pixels, more than the {Image.MAX_IMAGE_PIXELS:,} that are read: make it smaller"
        ) from error
    except Exception as error:  # a damaged file can lead Pillow's decoders to any
        raise DataError(
            f"{path} cannot be read ({_reason(path, error)}); it is missing, truncated or no image: get it again"
        ) from error


def _check_frames(path: Path, file: Image.Image) -> None:
    frames = getattr(file, "n_frames", 1)
    if frames > 1 and file.format != "MPO":  # whose other frames are previews and maps of depth
        raise DataError(f"{path} has {frames} frames, and an image is one: save the frame that you want")


def _bits(file: Image.Image) -> int:
    """Of a channel, as they are in the file, before it is decoded; -8 for eight with a sign."""
    if file.format == "PNG":
        return 16 if any(";16" in str(tile[3]) for tile in file.tile) else 8
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        bits = max(file.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
        signed = 2 in file.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
        return -bits if signed else bits
    return 8


def _upright(file: Image.Image) -> Image.Image:
    """The decoded picture, turned; `ImageOps.exif_transpose` would also write the tags anew, and fail on bad ones."""
    file.load()  # which itself turns a TIFF, and then forgets its orientation
    turn = TURNS.get(file.getexif().get(ExifTags.Base.Orientation))
    return file.copy() if turn is None else file.transpose(turn)


def _in_eight_bits(path: Path, image: Image.Image, bits: int, format: str) -> Image.Image:
    if format == "PNG" and bits == 16:
        return _scaled(path, image)
    if image.mode not in EIGHT_BITS or not 0 < bits <= 8:
        raise DataError(
            f"{path} has pixels of mode {image.mode}{_depth(bits)}{_range(image)}, and nothing says which of them is "
            "white: convert it to 8 bits a channel with the scale that you want"
        )
    return image


def _scaled(path: Path, image: Image.Image) -> Image.Image:
    """A PNG of 16 bits in 8: of grey, rounded; of colour, the upper 8, to which Pillow has cut it."""
    if not image.mode.startswith("I"):
        if "transparency" in image.info:  # a colour in 16 bits, which can no longer be found
            raise DataError(f"{path} has a transparent colour in 16 bits: save it with an alpha channel, or in 8 bits")
        brightest = max(high for _, high in image.convert("RGB").getextrema())
        _check_faint(path, image.mode, 256 * brightest + 1)  # all black it may have been anything below 256
        return image
    values = np.asarray(image).astype(np.int64)
    _check_faint(path, image.mode, int(values.max()))
    scaled = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if "transparency" in image.info:  # one value among 65,536, which has neighbours that are scaled to the same
        alpha = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
        scaled.putalpha(Image.fromarray(alpha))
    return scaled


def _check_faint(path: Path, mode: str, brightest: int) -> None:
    """DataError where scaling would leave next to nothing; a picture without any light is black, and is read."""
    if 0 < brightest < FAINT:
        raise DataError(
            f"{path} has pixels of mode {mode} in 16 bits and uses less than a sixteenth of their range, so that they "
            "were hardly meant to run from 0 to 65535: convert it to 8 bits a channel with the scale that you want"
        )


def _depth(bits: int) -> str:
    """What `_bits` counted, where it is not what a mode of eight bits says already."""
    if bits == 8:
        return ""
    return f" ({abs(bits)} bits, signed)" if bits < 0 else f" ({bits} bits)"


def _range(image: Image.Image) -> str:
    """Between which values the pixels are, of a mode of one channel with more than eight bits."""
    if not image.mode.startswith(("I", "F")):
        return ""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        return ""
    form = ".3g" if image.mode == "F" else "d"
    return f" between {low:{form}} and {high:{form}}"


def _opaque(image: Image.Image, ground: str) -> Image.Image:
    """The image over a ground of one colour; as it is where nothing of it is transparent."""
    if image.mode not in TRANSPARENT and "transparency" not in image.info:
        return image
    if image.mode == "La":  # which Pillow converts to no other
        image = image.convert("LA")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, ground), layer)


def _reason(path: Path, error: Exception) -> str:
    """One short line of what went wrong."""
    if isinstance(error, UnidentifiedImageError):  # whose message is the path once more
        return "its kind is not known" if _size(path) else "it is empty"
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _size(path: Path) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # it has been removed meanwhile
        return 0
