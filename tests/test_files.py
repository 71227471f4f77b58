"""Format x kind of pixels: the same pixels come out, or the refusal names why not.

Files are drawn by Pillow and tifffile, and results are read by them.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from faithful import Refused, opened, saved, scene, through
from imageloom import codecs
from imageloom.codecs import formats, get, read_header, suffixes
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding, Pixels


def from_pillow(format: str, channels: int = 3, mode: str | None = None, **options: Any) -> bytes:
    image = Image.fromarray(scene(channels))
    return saved(image.convert(mode) if mode else image, format, **options)


def from_tifffile(image: Pixels, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, **options)
    return file.getvalue()


def rgb_tiff(channels: int, dtype: str, **options: Any) -> bytes:
    image = scene(channels, dtype)
    alpha = {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
    return from_tifffile(image, photometric="rgb" if channels > 2 else "minisblack", **alpha, **options)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def raw_png(samples: Pixels, bits: int, kind: int, *before: bytes, packed: bool = False) -> bytes:
    """A PNG of samples (h, w, channels), or of rows of packed bits, with chunks before the pixels."""
    rows = samples if packed else samples.astype(">u2" if bits == 16 else "u1").reshape(len(samples), -1)
    width = samples.shape[1] * 8 // bits if packed else samples.shape[1]
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, len(samples), bits, kind, 0, 0, 0)
    chunks = [
        png_chunk(b"IHDR", head),
        *before,
        png_chunk(b"IDAT", zlib.compress(raw)),
        png_chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def keyed(image: Pixels) -> Pixels:
    """The image with an alpha that is clear where the pixel is that of the corner."""
    same = image == image[0, 0]
    clear = same if same.ndim == 2 else same.all(axis=2)
    alpha = np.where(clear, 0, np.iinfo(image.dtype).max).astype(image.dtype)
    return np.dstack((image, alpha))


def key(image: Pixels) -> bytes:
    return png_chunk(b"tRNS", np.atleast_1d(image[0, 0]).astype(">u2").tobytes())


def palette_image() -> Image.Image:
    return Image.fromarray(scene(3)).quantize(64)


def bits() -> Pixels:
    return (scene(1) > 100).astype(np.uint8) * 255


def bitmap() -> Image.Image:
    return Image.fromarray(bits()).convert("1", dither=Image.Dither.NONE)


def rgb_of(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def pnm(kind: str, body: bytes, top: int | None = 255, width: int = 45, height: int = 31) -> bytes:
    numbers = f"{width} {height}" + (f"\n{top}" if top else "")
    return f"{kind}\n# a comment\n{numbers}\n".encode() + body


def plain(image: Pixels) -> bytes:
    return b"\n".join(b" ".join(str(v).encode() for v in row) for row in image.reshape(len(image), -1))


ten_bits = (scene(1, "uint16") >> 6).astype(np.uint16)

LOSSLESS: dict[str, tuple[Callable[[], bytes], Pixels]] = {
    "png gray": (lambda: from_pillow("PNG", 1), scene(1)),
    "png gray+alpha": (lambda: from_pillow("PNG", 2), scene(2)),
    "png RGB": (lambda: from_pillow("PNG", 3), scene(3)),
    "png RGBA": (lambda: from_pillow("PNG", 4), scene(4)),
    "png 16 bit gray": (lambda: raw_png(scene(1, "uint16"), 16, 0), scene(1, "uint16")),
    "png 16 bit gray+alpha": (lambda: raw_png(scene(2, "uint16"), 16, 4), scene(2, "uint16")),
    "png 16 bit RGB": (lambda: raw_png(scene(3, "uint16"), 16, 2), scene(3, "uint16")),
    "png 16 bit RGBA": (lambda: raw_png(scene(4, "uint16"), 16, 6), scene(4, "uint16")),
    "png 1 bit": (lambda: saved(bitmap(), "PNG"), bits()),
    "png 1 bit, transparent colour": (
        lambda: raw_png(np.packbits(bits() > 0, axis=1)[:, :5], 1, 0, key(bits() // 255), packed=True),
        keyed(bits()[:, :40]),
    ),
    "png palette": (lambda: saved(palette_image(), "PNG"), rgb_of(palette_image())),
    "png palette with alpha": (
        lambda: saved(palette_image(), "PNG", transparency=bytes(range(0, 256, 4))),
        np.dstack((rgb_of(palette_image()), 4 * np.asarray(palette_image()))),
    ),
    "png gray, transparent colour": (lambda: raw_png(scene(1), 8, 0, key(scene(1))), keyed(scene(1))),
    "png RGB, transparent colour": (lambda: raw_png(scene(3), 8, 2, key(scene(3))), keyed(scene(3))),
    "png 16 bit gray, transparent colour": (
        lambda: raw_png(scene(1, "uint16"), 16, 0, key(scene(1, "uint16"))),
        keyed(scene(1, "uint16")),
    ),
    "tiff gray": (lambda: rgb_tiff(1, "uint8"), scene(1)),
    "tiff gray+alpha": (lambda: rgb_tiff(2, "uint8", planarconfig="contig"), scene(2)),
    "tiff RGB": (lambda: rgb_tiff(3, "uint8"), scene(3)),
    "tiff RGBA": (lambda: rgb_tiff(4, "uint8"), scene(4)),
    "tiff 16 bit gray": (lambda: rgb_tiff(1, "uint16"), scene(1, "uint16")),
    "tiff 16 bit RGBA": (
        lambda: rgb_tiff(4, "uint16", compression="zlib", predictor=True),
        scene(4, "uint16"),
    ),
    "tiff float": (lambda: rgb_tiff(1, "float32"), scene(1, "float32")),
    "tiff float RGB": (
        lambda: rgb_tiff(3, "float32", compression="zlib", predictor=True),
        scene(3, "float32"),
    ),
    "tiff big-endian": (lambda: rgb_tiff(3, "uint16", byteorder=">"), scene(3, "uint16")),
    "tiff BigTIFF": (lambda: rgb_tiff(3, "uint8", bigtiff=True), scene(3)),
    "tiff tiles": (lambda: rgb_tiff(3, "uint8", tile=(16, 16), compression="zlib"), scene(3)),
    "tiff planes": (
        lambda: from_tifffile(scene(3).transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        scene(3),
    ),
    "tiff LZW": (lambda: from_pillow("TIFF", compression="tiff_lzw"), scene(3)),
    "tiff PackBits": (lambda: from_pillow("TIFF", compression="packbits"), scene(3)),
    "tiff zstd": (lambda: rgb_tiff(3, "uint8", compression="zstd"), scene(3)),
    "tiff white is zero": (lambda: from_tifffile(255 - scene(1), photometric="miniswhite"), scene(1)),
    "tiff 1 bit": (lambda: saved(bitmap(), "TIFF"), bits()),
    "tiff palette": (lambda: saved(palette_image(), "TIFF"), rgb_of(palette_image())),
    "bmp gray": (lambda: from_pillow("BMP", 1), scene(1)),
    "bmp RGB": (lambda: from_pillow("BMP", 3), scene(3)),
    "bmp RGBA": (cv2.imencode(".bmp", scene(4)[:, :, [2, 1, 0, 3]])[1].tobytes, scene(4)),
    "bmp palette": (lambda: saved(palette_image(), "BMP"), rgb_of(palette_image())),
    "bmp 1 bit": (lambda: saved(bitmap(), "BMP"), bits()),
    "pbm plain": (lambda: pnm("P1", plain((bits() == 0).astype(int)), None), bits()),
    "pgm plain": (lambda: pnm("P2", plain(scene(1))), scene(1)),
    "ppm plain": (lambda: pnm("P3", plain(scene(3))), scene(3)),
    "pbm raw": (lambda: saved(bitmap(), "PPM"), bits()),
    "pgm raw": (lambda: from_pillow("PPM", 1), scene(1)),
    "ppm raw": (lambda: from_pillow("PPM", 3), scene(3)),
    "ppm 16 bit": (
        lambda: pnm("P6", scene(3, "uint16").astype(">u2").tobytes(), 65_535),
        scene(3, "uint16"),
    ),
    "pgm 10 bit": (
        lambda: pnm("P5", ten_bits.astype(">u2").tobytes(), 1023),
        np.rint(ten_bits * (65_535 / 1023)).astype(np.uint16),
    ),
    "gif": (lambda: saved(palette_image(), "GIF"), rgb_of(palette_image())),
    "gif with alpha": (
        lambda: saved(palette_image(), "GIF", transparency=5),
        np.dstack(
            (rgb_of(palette_image()), np.where(np.asarray(palette_image()) == 5, 0, 255).astype(np.uint8))
        ),
    ),
}


def decoded(data: bytes) -> Pixels:
    """The pixels of a file, by imageloom's codec alone."""
    header = read_header(lambda n: data[:n], len(data))
    return codecs.decode(data, header)


def seen(data: bytes) -> Pixels:
    """The pixels of a lossless output, by a decoder that is not imageloom's."""
    if data[:2] in (b"II", b"MM"):
        return tifffile.imread(io.BytesIO(data))
    if data[:1] == b"P" or (data[:4] == b"\x89PNG" and data[24] == 16):  # Pillow makes 8 bits of such colour
        return _by_opencv(data)
    image = opened(data)
    return np.asarray(image.convert("L") if image.mode in ("1", "P") and data[:2] == b"BM" else image)


def _by_opencv(data: bytes) -> Pixels:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    if image.ndim == 2:
        return image
    if data[25] == 4 and data[:4] == b"\x89PNG":
        return image[:, :, 2:]
    return image[:, :, [2, 1, 0, 3][: image.shape[2]]]


@pytest.mark.parametrize("case", LOSSLESS)
def test_a_lossless_file_comes_out_with_the_pixels_it_had(case: str, tmp_path: Path) -> None:
    make, expected = LOSSLESS[case]
    result = seen(through(tmp_path, make()))
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("case", LOSSLESS)
def test_a_header_says_what_decoding_yields(case: str) -> None:
    make, expected = LOSSLESS[case]
    data = make()
    frame = read_header(lambda n: data[:n], len(data)).frame
    pixels = decoded(data)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    assert (frame.height, frame.width) == pixels.shape[:2]
    assert (frame.channels, frame.dtype) == (channels, str(pixels.dtype))
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("target", ["png", "tiff", "bmp", "pnm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_turn_into_each_other(target: Any, channels: int, tmp_path: Path) -> None:
    result = through(tmp_path, from_pillow("PNG", channels), format=target)
    np.testing.assert_array_equal(seen(result), scene(channels))


@pytest.mark.parametrize(
    ("format", "channels"), [("JPEG", 3), ("WEBP", 3), ("WEBP", 4), ("AVIF", 3), ("AVIF", 4)]
)
def test_a_lossy_file_comes_out_close(format: str, channels: int, tmp_path: Path) -> None:
    given = from_pillow(format, channels, quality=95)
    before = np.asarray(opened(given))
    assert np.abs(decoded(given).astype(int) - before).max() <= 2
    result = opened(through(tmp_path, given, quality=95))
    assert (result.format, result.mode) == (format, {3: "RGB", 4: "RGBA"}[channels])
    assert np.abs(np.asarray(result).astype(int) - before).mean() < 3


@pytest.mark.parametrize(("format", "channels"), [("webp", 1), ("webp", 2), ("avif", 2)])
def test_gray_becomes_equal_channels_where_a_format_holds_colour_only(
    format: Any, channels: int, tmp_path: Path
) -> None:
    result = np.asarray(opened(through(tmp_path, from_pillow("PNG", channels), format=format, quality=95)))
    expected = scene(channels) if channels == 1 else scene(2)[:, :, 0]
    assert result.shape[2] == (3 if channels == 1 else 4)
    for channel in range(3):
        assert np.abs(result[:, :, channel].astype(int) - expected).mean() < 3


def test_a_lossless_webp_is_read_exactly(tmp_path: Path) -> None:
    given = from_pillow("WEBP", 4, lossless=True, exact=True)
    np.testing.assert_array_equal(seen(through(tmp_path, given, format="png")), scene(4))


def test_a_tiff_of_multiplied_colours_is_divided_by_its_alpha(tmp_path: Path) -> None:
    image = scene(4)
    image[:, :, 3] = 128
    multiplied = image.copy()
    multiplied[:, :, :3] = np.rint(image[:, :, :3] * (128 / 255))
    given = from_tifffile(multiplied, photometric="rgb", extrasamples=["assocalpha"])
    result = seen(through(tmp_path, given))
    assert np.abs(result.astype(int) - image).max() <= 1


def test_a_gif_that_does_not_fill_its_screen_is_clear_around(tmp_path: Path) -> None:
    given = bytearray(saved(palette_image(), "GIF"))
    given[6:10] = struct.pack("<HH", 50, 40)
    result = seen(through(tmp_path, bytes(given)))
    np.testing.assert_array_equal(result[:31, :45, :3], rgb_of(palette_image()))
    assert result.shape == (40, 50, 4)
    assert not result[31:].any()
    assert not result[:, 45:].any()
    assert (result[:31, :45, 3] == 255).all()


def animation(format: str, **options: Any) -> bytes:
    frames = [Image.fromarray(np.roll(scene(3), 5 * i, axis=1)) for i in range(3)]
    return saved(frames[0], format, save_all=True, append_images=frames[1:], **options)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "tiff 64 bit": (lambda: from_tifffile(scene(1).astype(np.float64)), "TIFF of 64 bits, floating-point"),
    "tiff fax": (lambda: saved(bitmap(), "TIFF", compression="group4"), "TIFF of compression 4"),
    "pam": (lambda: b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 5\nMAXVAL 255\nENDHDR\n" + bytes(5), "PAM of 5 channels"),
    "text": (lambda: b"no picture at all", "not an image of a supported format"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_rightly_is_refused_by_name(case: str, tmp_path: Path) -> None:
    make, words = REFUSED[case]
    with pytest.raises(Refused, match=f"UnsupportedImage: .*{words}"):
        through(tmp_path, make())


CANNOT_HOLD = [
    ("jpeg", 4, "uint8"),
    ("jpeg", 3, "uint16"),
    ("jpeg", 2, "uint8"),
    ("bmp", 2, "uint8"),
    ("bmp", 3, "uint16"),
    ("pnm", 4, "float32"),
    ("webp", 3, "uint16"),
    ("avif", 3, "float32"),
    ("png", 3, "float32"),
    ("heif", 1, "float32"),
]


@pytest.mark.parametrize(("target", "channels", "dtype"), CANNOT_HOLD)
def test_pixels_that_a_format_cannot_hold_are_refused(
    target: Any, channels: int, dtype: str, tmp_path: Path
) -> None:
    given = rgb_tiff(channels, dtype, planarconfig="contig")
    with pytest.raises(Refused, match=r"UnsupportedImage: .*(supports?|written)"):
        through(tmp_path, given, format=target)


def test_a_file_is_what_its_bytes_say(tmp_path: Path) -> None:
    data = through(tmp_path, from_pillow("PNG"), name="photo.jpg")
    np.testing.assert_array_equal(seen(data), scene(3))
    assert [path.name for path in (tmp_path / "sink").iterdir()] == ["photo.png"]


def test_a_gif_is_written_as_png(tmp_path: Path) -> None:
    through(tmp_path, saved(palette_image(), "GIF"), name="logo.gif")
    assert [path.name for path in (tmp_path / "sink").iterdir()] == ["logo.png"]


def test_every_suffix_leads_to_one_format() -> None:
    found = [suffix for format in formats() for suffix in suffixes(format)]
    assert len(found) == len(set(found))


@pytest.mark.parametrize("format", ["webp", "avif", "jpeg"])
def test_quality_decides_about_the_size(format: Any) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    codec = get(format)
    assert (
        len(codec.encode(noise, Encoding(20)))
        < len(codec.encode(noise, Encoding(codec.quality)))
        < len(codec.encode(noise, Encoding(95)))
    )


@pytest.mark.parametrize("case", ["png gray", "tiff gray", "bmp gray", "pgm raw", "gif"])
def test_a_file_that_is_cut_off_anywhere_is_refused(case: str) -> None:
    data = LOSSLESS[case][0]()
    for length in [*range(0, len(data) - 41, 41), len(data) - 40]:
        cut = data[:length]
        with pytest.raises((CorruptImage, UnsupportedImage)):
            decoded(cut)


def run_python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=False, capture_output=True, timeout=60, text=True)


def test_a_job_of_jpegs_loads_no_library_of_other_formats(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(from_pillow("JPEG"))
    program = """
import sys
from imageloom import process
summary = process("invert", sys.argv[1] + "/in", sys.argv[1] + "/out", ledger=sys.argv[1] + "/ledger")
print(summary.done, *{"PIL", "tifffile", "imagecodecs", "imageloom.codecs.tiff"} & set(sys.modules))
"""
    run = run_python(program, str(tmp_path))
    assert (run.stdout.split(), run.stderr) == (["1"], "")


def test_tiff_without_its_extra_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(rgb_tiff(3, "uint8"))
    program = """
import sys
sys.modules["tifffile"] = None
from imageloom.codecs import decode, read_header
data = open(sys.argv[1], "rb").read()
header = read_header(lambda n: data[:n], len(data))
decode(data, header)
"""
    run = run_python(program, str(tmp_path / "a.tif"))
    assert "MissingExtra" in run.stderr
    assert "pip install 'imageloom[tiff]'" in run.stderr
