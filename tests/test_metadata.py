"""Orientation is applied and reset; EXIF, XMP and colour profiles go along. Written and read by Pillow."""

from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from faithful import opened, saved, scene, through
from imageloom.codecs import get, jpegmetadata
from imageloom.codecs.metadata import Metadata
from imageloom.model import Encoding, Frame, Header, Output, Recipe, Step
from imageloom.recipes.explain import explain

ORIENTATION, MAKE, DATE, EXIF, GPS, WIDTH = 0x0112, 0x010F, 0x9003, 0x8769, 0x8825, 0xA002
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_PROFILE = PROFILE[:16] + b"GRAY" + PROFILE[20:]
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    b"</rdf:RDF></x:xmpmeta>"
)
WITH_METADATA = ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"]


def exif(orientation: int = 1) -> Image.Exif:
    block = Image.Exif()
    block[ORIENTATION] = orientation
    block[MAKE] = "Loom"
    block.get_ifd(EXIF)[DATE] = "2026:11:21 09:00:00"
    block.get_ifd(EXIF)[WIDTH] = 4000
    block.get_ifd(GPS)[1] = "N"
    block.get_ifd(GPS)[2] = (48.0, 30.0, 15.5)
    return block


def with_metadata(format: str, orientation: int = 1, xmp: bytes = XMP, icc: bytes = PROFILE) -> bytes:
    image = Image.fromarray(scene(3))
    options: dict[str, Any] = {"exif": exif(orientation), "icc_profile": icc}
    if format == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    elif format == "TIFF":
        options["exif"][700] = xmp
        options["exif"] = options["exif"].tobytes()  # as an object, Pillow writes its first directory alone
    else:
        options |= {"xmp": xmp, "quality": 95}
    return saved(image, format, **options)


def xmp_of(image: Image.Image) -> bytes:
    found = image.info.get("xmp") or (image.tag_v2.get(700) if hasattr(image, "tag_v2") else b"") or b""
    return found.encode() if isinstance(found, str) else found


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", WITH_METADATA)
def test_pixels_are_turned_upright_and_the_tag_is_reset(
    format: str, orientation: int, tmp_path: Path
) -> None:
    given = with_metadata(format, orientation, XMP.replace(b'="6"', b'="%d"' % orientation))
    expected = np.asarray(ImageOps.exif_transpose(opened(given)).convert("RGB"))
    image = opened(through(tmp_path, given, quality=95))
    assert image.getexif().get(ORIENTATION, 1) == 1
    assert (image.height, image.width) == expected.shape[:2]
    assert np.abs(np.asarray(image).astype(int) - expected).mean() < 3
    assert image.getexif()[MAKE] == "Loom"


@pytest.mark.parametrize("target", WITH_METADATA)
@pytest.mark.parametrize("format", WITH_METADATA)
def test_exif_xmp_and_profile_go_from_each_format_to_each(format: str, target: Any, tmp_path: Path) -> None:
    image = opened(through(tmp_path, with_metadata(format), "resize 20x10", format=target.lower()))
    block = image.getexif()
    assert image.format == target
    assert block[MAKE] == "Loom"
    assert block.get_ifd(EXIF)[DATE] == "2026:11:21 09:00:00"
    assert block.get_ifd(EXIF)[WIDTH] == 20
    assert [float(x) for x in block.get_ifd(GPS)[2]] == [48.0, 30.0, 15.5]
    assert image.info["icc_profile"] == PROFILE
    assert xmp_of(image).replace(b'="1"', b'="6"') == XMP
    assert b'tiff:Orientation="1"' in xmp_of(image)


@pytest.mark.parametrize("format", WITH_METADATA)
def test_strip_leaves_nothing(format: str, tmp_path: Path) -> None:
    given = with_metadata(format, orientation=6)
    image = opened(through(tmp_path, given, metadata="strip"))
    assert image.size == (31, 45)
    assert not xmp_of(image)
    assert not image.info.get("icc_profile")
    assert MAKE not in image.getexif()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_a_profile_for_colours_is_dropped_from_gray(format: str, tmp_path: Path) -> None:
    image = opened(through(tmp_path, with_metadata(format), "grayscale"))
    assert image.mode == "L"
    assert not image.info.get("icc_profile")
    assert image.getexif()[MAKE] == "Loom"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_a_profile_for_gray_stays_with_gray(format: str, tmp_path: Path) -> None:
    given = saved(Image.fromarray(scene(1)), format, icc_profile=GRAY_PROFILE)
    assert opened(through(tmp_path, given)).info["icc_profile"] == GRAY_PROFILE


def test_plan_says_what_becomes_of_the_profile() -> None:
    header = Header("jpeg", Frame(100, 80, 3))

    def told(*names: str, **options: Any) -> str:
        lines = explain(header, Recipe((Output(tuple(map(Step, names))),), **options), 1000)
        return next(line for line in lines if line.startswith("metadata"))

    assert "XMP, colour profile" in told("invert")
    assert "not the colour profile, because the output is gray" in told("grayscale")
    assert "strip" in told("invert", metadata="strip")


def test_a_profile_of_many_segments_is_whole_again(tmp_path: Path) -> None:
    large = PROFILE[:128] + np.random.default_rng(1).bytes(200_000)
    image = opened(through(tmp_path, with_metadata("PNG", icc=large), format="jpeg"))
    assert image.info["icc_profile"] == large


def test_a_profile_that_lacks_a_segment_is_left_out() -> None:
    jpeg = saved(Image.fromarray(scene(3)), "JPEG", icc_profile=bytes(100_000))
    assert len(jpegmetadata.read(jpeg).icc) == 100_000
    at = jpeg.index(b"ICC_PROFILE\0\2")
    assert jpegmetadata.read(jpeg.replace(b"ICC_PROFILE\0\2", b"ICC_PROFILE\0\3")).icc == b""
    assert at > 60_000


def test_an_extension_of_xmp_goes_from_jpeg_to_jpeg(tmp_path: Path) -> None:
    extension = b"<x>" + b"y" * 150_000 + b"</x>"
    guid = hashlib.md5(extension).hexdigest().upper()
    packet = XMP.replace(b"<rdf:Description", f'<rdf:Description xmpNote:HasExtendedXMP="{guid}"'.encode())
    given = jpegmetadata.insert(
        saved(Image.fromarray(scene(3)), "JPEG"), Metadata(xmp=packet, extended_xmp=extension)
    )
    found = jpegmetadata.read(through(tmp_path, given))
    assert found.extended_xmp == extension
    assert guid.encode() in found.xmp


@pytest.mark.parametrize("target", ["jpeg", "png"])
def test_a_packet_does_not_name_an_extension_that_is_not_there(target: Any, tmp_path: Path) -> None:
    packet = b"<x:xmpmeta xmlns:xmpNote='n' xmpNote:HasExtendedXMP=\"%s\"/>" % (b"0123456789ABCDEF" * 2)
    made = through(tmp_path, saved(Image.fromarray(scene(3)), "JPEG", xmp=packet), format=target)
    assert b"xmpmeta" in made
    assert b"HasExtendedXMP" not in made


def test_a_large_packet_becomes_an_extension(tmp_path: Path) -> None:
    packet = XMP.replace(b"<rdf:Description", b"<rdf:Description " + b"x" * 100_000)
    found = jpegmetadata.read(through(tmp_path, with_metadata("PNG", xmp=packet), format="jpeg"))
    assert found.extended_xmp == packet.replace(b'="6"', b'="1"')
    assert len(found.xmp) < 1000


def test_exif_that_is_too_long_for_a_segment_is_split(tmp_path: Path) -> None:
    block = exif()
    block[0x010E] = "a" * 70_000
    given = saved(Image.fromarray(scene(3)), "PNG", exif=block)
    found = opened(through(tmp_path, given, format="jpeg")).getexif()
    assert found[0x010E] == "a" * 70_000
    assert found.get_ifd(EXIF)[DATE] == "2026:11:21 09:00:00"


def test_the_thumbnail_of_the_old_pixels_is_gone(tmp_path: Path) -> None:
    thumbnail = b"\xff\xd8 what a crop was to hide \xff\xd9"
    first = struct.pack("<HHHII", 1, MAKE, 2, 4, 0x6D6F6F4C) + struct.pack("<I", 26)
    second = struct.pack("<H", 2) + struct.pack("<HHIIHHII", 0x201, 4, 1, 56, 0x202, 4, 1, len(thumbnail))
    for behind in (b"", b"more"):
        block = b"II*\0\x08\0\0\0" + first + second + bytes(4) + thumbnail + behind
        folder = tmp_path / f"with{len(behind)}"
        folder.mkdir()
        given = saved(Image.fromarray(scene(3)), "JPEG", exif=b"Exif\0\0" + block)
        assert thumbnail in given
        written = through(folder, given)
        assert b"a crop was to hide" not in written
        assert opened(written).getexif()[MAKE].startswith("Loom")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4, 6, 8, 9])
def test_sizes_of_any_type_of_whole_number_are_true(kind: int, order: str, tmp_path: Path) -> None:
    """exiv2 and ImageMagick write signed numbers, for example; a byte is too small for a width of 300."""
    letter = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}[kind]

    def entry(tag: int, kind: int, letter: str, value: int) -> bytes:
        return struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(order + letter, value).ljust(4, b"\0")

    first = [entry(0x0100, kind, letter, 99), entry(ORIENTATION, kind, letter, 6), entry(EXIF, 4, "I", 50)]
    second = [entry(WIDTH, kind, letter, 99), entry(WIDTH + 1, kind, letter, 99), entry(0xA005, 4, "I", 92)]
    third = [entry(0x1001, kind, letter, 99), entry(0x1002, kind, letter, 99)]
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    for entries in (first, second, third):
        block += struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    image = Image.fromarray(scene(3, width=301, height=300))
    made = opened(through(tmp_path, saved(image, "JPEG", exif=b"Exif\0\0" + block)))
    assert made.size == (300, 301)
    found = made.getexif()
    assert found[0x0100] == 300
    assert found[ORIENTATION] in (1, b"\1")
    below = found.get_ifd(EXIF)
    assert (below[WIDTH], below[WIDTH + 1]) == (300, 301)
    related = found.get_ifd(0xA005) or below[0xA005]
    assert (related[0x1001], related[0x1002]) == (300, 301)


def test_the_order_of_bytes_of_exif_is_kept_in_a_tiff(tmp_path: Path) -> None:
    block = exif()
    block.endian = ">"
    given = saved(Image.fromarray(scene(3)), "JPEG", exif=block, quality=95)
    written = through(tmp_path, given, format="tiff")
    assert opened(written).getexif().get_ifd(EXIF)[DATE] == "2026:11:21 09:00:00"
    assert np.abs(np.asarray(opened(written)).astype(int) - scene(3)).mean() < 3


def test_metadata_does_not_change_the_pixels_of_a_file() -> None:
    metadata = Metadata(exif().tobytes().removeprefix(b"Exif\0\0"), XMP, b"", PROFILE)
    for format in ("jpeg", "png", "webp"):
        codec = get(format)
        plain, full = (
            codec.encode(scene(4 if format != "jpeg" else 3), Encoding(80), m) for m in (Metadata(), metadata)
        )
        assert len(full) > len(plain) + len(PROFILE) // 2
        first, second = (
            cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_UNCHANGED) for d in (plain, full)
        )
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("big", [False, True], ids=["TIFF", "BigTIFF"])
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("tile", ["never", "always"])
def test_a_tiff_in_pieces_takes_everything_along(
    tmp_path: Path, tile: Any, endian: str, big: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageloom.model.image.LARGE", 100)
    if big:
        monkeypatch.setattr("imageloom.codecs.piecewise.tiff._CLASSIC_END", 100)
    block = exif(orientation=6)
    block.endian = endian
    block[282] = 72.5
    given = saved(Image.fromarray(scene(3)), "JPEG", exif=block, quality=95, xmp=XMP, icc_profile=PROFILE)
    written = through(tmp_path, given, format="tiff", tile=tile)
    with tifffile.TiffFile(io.BytesIO(written)) as file:
        page = file.pages.first
        assert (page.is_tiled, file.is_bigtiff) == (True, big)
        assert page.tags[MAKE].value == "Loom"
        assert page.tags[ORIENTATION].value == 1
        assert page.tags[282].value == (145, 2)
        assert page.tags[EXIF].value["DateTimeOriginal"] == "2026:11:21 09:00:00"
        assert page.tags[EXIF].value["PixelXDimension"] == page.imagewidth == scene(3).shape[0]
        assert page.tags[GPS].value["GPSLatitude"] == (48, 1, 30, 1, 31, 2)
        assert page.tags[34675].value == PROFILE
        assert b'tiff:Orientation="1"' in page.tags[700].value
    image = opened(written)
    assert image.getexif()[MAKE] == "Loom"
    assert np.abs(np.asarray(image).astype(int) - np.rot90(scene(3), -1)).mean() < 3
