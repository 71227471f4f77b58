"""What a TIFF holds beside its pixels: kept, made true, or dropped and said; several pictures are refused by name.

Written and read by tifffile and Pillow.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, IptcImagePlugin
from PIL.PngImagePlugin import PngInfo

from imageloom.codecs import get
from imageloom.codecs.tiff import Tiff
from imageloom.model import Encoding, Frame
from tiffs import Ran, ramp, run, tiff

RGB = np.dstack((ramp(), ramp()[::-1], ramp()[:, ::-1]))
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GEO: dict[int, Any] = {
    33550: (10.0, 10.0, 0.0),
    33922: (0.0, 0.0, 0.0, 600_000.0, 5_700_000.0, 0.0),
    34735: (1, 1, 0, 1, 1024, 0, 1, 1),
    34737: "WGS 84|",
    42112: "<GDALMetadata/>",
    42113: "-9999",
}
_KINDS = {33550: 12, 33922: 12, 34735: 3, 34737: 2, 42112: 2, 42113: 2}
GEO_TAGS = [
    (code, _KINDS[code], None if isinstance(value, str) else len(value), value, True)
    for code, value in GEO.items()
]
IPTC = b"".join(
    b"\x1c\x02" + bytes((number,)) + len(text).to_bytes(2) + text
    for number, text in ((80, b"Jane Press"), (110, b"Agency X"), (116, b"(c) 2026 Jane Press"))
)
RESOURCES = b"8BIM\x04\x04\0\0" + len(IPTC).to_bytes(4) + IPTC + bytes(len(IPTC) % 2)
OME = (
    '<?xml version="1.0"?><OME xmlns="x"><Image><Pixels Type="uint8" SizeX="64" SizeY="48" SizeC="3" SizeZ="1" '
    'SizeT="1"/></Image></OME>'
)


def pages(*options: dict[str, Any], **first: Any) -> bytes:
    """A file of several directories: a picture, and one for each of the options."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=first.pop("bigtiff", False)) as writer:
        writer.write(RGB, photometric="rgb", metadata=None, **first)
        for one in options:
            image = one.pop("image", RGB[::2, ::2])
            writer.write(image, metadata=None, **{"photometric": "rgb", **one})
    return file.getvalue()


SHAPED = json.dumps({"shape": [3, 48, 64, 3], "truncated": True})
SEVERAL = {
    "raw.tif": pages({"image": RGB, "subfiletype": 0}, subifds=1, subfiletype=1),
    "imagej.tif": tiff(ramp(), description="ImageJ=1.53t\nimages=3\nslices=3\n"),
    "truncated.tif": tiff(RGB, photometric="rgb", description=SHAPED),
    "metamorph.tif": tiff(ramp(), extratags=[(33629, 5, 3, (1, 1) * 3, True)]),
    "volume.tif": tiff(np.zeros((32, 32, 32), np.uint8), volumetric=True, tile=(16, 16, 16)),
}
FIRST = {
    "pages.tif": pages({"image": RGB[::-1]}),
    "fax.tif": pages({"image": RGB[::-1], "subfiletype": 2}, subfiletype=2),
    "below.tif": pages({"image": RGB[::-1], "subfiletype": 0}, subifds=1),
    "late.tif": pages({"image": RGB[::-1]}, {"subfiletype": 1, "image": RGB[::4, ::4]}),
}
"""Files whose first page is done, and whose other pages are reported."""
ONE = {
    "overviews.tif": pages({"subfiletype": 1}, {"subfiletype": 1, "image": RGB[::4, ::4]}),
    "pyramid.tif": pages({"subfiletype": 1}, subifds=1, bigtiff=True),
    "mask.tif": pages({"subfiletype": 4, "image": ramp() > 128, "photometric": "mask"}),
}


def test_several_pictures_are_refused_by_name(tmp_path: Path) -> None:
    made = run(tmp_path, SEVERAL, "auto_orient")
    assert set(made.failed) == set(SEVERAL)
    for name, said in made.failed.items():
        expected = "smaller copy" if name == "raw.tif" else "several pages"
        assert said.startswith("UnsupportedImage")
        assert expected in said


def test_other_pages_are_reported(tmp_path: Path) -> None:
    made = run(tmp_path, FIRST, "auto_orient")
    assert set(made.made) == set(FIRST)
    for name in FIRST:
        assert "pages" in made.dropped[name]
        np.testing.assert_array_equal(made.pixels(name), RGB)


def test_smaller_copies_are_no_pages(tmp_path: Path) -> None:
    made = run(tmp_path, ONE, "auto_orient")
    assert set(made.made) == set(ONE)
    dropped = {name: set(said) for name, said in made.dropped.items()}
    assert dropped == {"overviews.tif": {"thumbnail"}, "pyramid.tif": {"thumbnail"}, "mask.tif": {"mask"}}
    for name in ONE:
        np.testing.assert_array_equal(made.pixels(name), RGB)


NOTES = {
    "shape.tif": tiff(RGB, photometric="rgb", metadata={"axes": "YXS"}),
    "planes.tif": tiff(
        np.moveaxis(RGB, 2, 0).copy(), photometric="rgb", planarconfig="separate", metadata={"axes": "SYX"}
    ),
    "ome.tif": tiff(RGB, photometric="rgb", description=OME),
    "imagej.tif": tiff(RGB, photometric="rgb", description="ImageJ=1.53t\nunit=micron\n"),
    "words.tif": tiff(RGB, photometric="rgb", description="The shape of water"),
}


def test_notes_of_programs_are_kept_while_they_are_true(tmp_path: Path) -> None:
    same = run(tmp_path / "same", NOTES, "gaussian_blur 1")
    assert {name for name in NOTES if 270 in same.tags(name)} == set(NOTES) - {"planes.tif"}
    assert {name for name, said in same.dropped.items() if said} == {"planes.tif"}
    for pipeline in ("resize 50%", "rotate 180", "crop 64x40"):
        moved = run(tmp_path / pipeline, NOTES, pipeline)
        kept = {name for name in NOTES if 270 in moved.tags(name)}
        assert kept == ({"shape.tif", "words.tif"} if pipeline == "rotate 180" else {"words.tif"})
        assert all(moved.dropped[name] == ("text",) for name in set(NOTES) - kept)
        for data in moved.made.values():
            with tifffile.TiffFile(io.BytesIO(data)) as file:
                assert file.asarray().shape == file.pages.first.shape
    gray = run(tmp_path / "gray", NOTES, "grayscale")
    assert {name for name in NOTES if 270 in gray.tags(name)} == {"words.tif", "imagej.tif"}


@pytest.mark.parametrize("options", [{}, {"byteorder": ">", "bigtiff": True}], ids=["little", "big"])
def test_georeference_is_kept_while_no_pixel_moves(options: dict[str, Any], tmp_path: Path) -> None:
    heights = ramp(top=3000, dtype="uint16")
    files = {"map.tif": tiff(heights, extratags=GEO_TAGS, tile=(16, 16), **options)}
    for pipeline in ("auto_orient", "gaussian_blur 2"):
        made = run(tmp_path / pipeline, files, pipeline)
        assert {code: made.tags("map.tif").get(code) for code in GEO} == GEO
        assert made.dropped["map.tif"] == ()
    moved = run(tmp_path / "moved", files, "rotate 180")
    assert not moved.tags("map.tif").keys() & GEO.keys()
    assert moved.dropped["map.tif"] == ("georeference",)
    assert run(tmp_path / "png", files, "auto_orient", format="png").dropped["map.tif"] == ("georeference",)


def tagged(**options: Any) -> bytes:
    tags = [
        (33723, 7, len(IPTC), IPTC, True),
        (700, 1, 9, b"<x:xmpmet", True),
        (34675, 7, len(PROFILE), PROFILE, True),
        (33432, 2, None, "Jane", True),
        (315, 2, None, "J. Press", True),
        (285, 2, None, "sheet 4", True),
    ]
    return tiff(RGB, photometric="rgb", extratags=tags, resolution=(300, 300), resolutionunit=2, **options)


@pytest.mark.parametrize(
    "options", [{}, {"byteorder": ">"}, {"bigtiff": True}], ids=["little", "big", "bigtiff"]
)
def test_descriptions_and_blocks_are_kept(options: dict[str, Any], tmp_path: Path) -> None:
    made = run(tmp_path, {"a.tif": tagged(**options)}, "resize 50%")
    tags = made.tags("a.tif")
    assert bytes(tags[33723]) == IPTC
    assert bytes(tags[34675]) == PROFILE
    assert (tags[33432], tags[315], tags[285]) == ("Jane", "J. Press", "sheet 4")
    assert (tags[282], tags[296]) == ((300, 1), 2)
    assert made.dropped["a.tif"] == ()


def by_line(data: bytes) -> Any:
    return (IptcImagePlugin.getiptcinfo(Image.open(io.BytesIO(data))) or {}).get((2, 80))


@pytest.mark.parametrize("tag", [(33723, 7, IPTC), (34377, 1, RESOURCES)], ids=["own tag", "Photoshop"])
def test_iptc_goes_into_jpeg_and_back(tag: tuple[int, int, bytes], tmp_path: Path) -> None:
    code, kind, block = tag
    files = {"a.tif": tiff(RGB, photometric="rgb", extratags=[(code, kind, len(block), block, True)])}
    there = run(tmp_path / "there", files, "auto_orient", format="jpeg")
    assert by_line(there.made["a.jpg"]) == b"Jane Press"
    back = run(tmp_path / "back", there.made, "auto_orient", format="tiff")
    assert by_line(back.made["a.tif"]) == b"Jane Press"


def test_density_and_texts_of_other_formats(tmp_path: Path) -> None:
    texts = PngInfo()
    for keyword, text in (
        ("Copyright", "(c) Jane"),
        ("Author", "Jané"),
        ("Description", "A ramp"),
        ("seed", "7"),
    ):
        texts.add_itxt(keyword, text)
    files: dict[str, bytes] = {}
    for name, format, options in (
        ("a.png", "PNG", {"pnginfo": texts, "dpi": (300, 300)}),
        ("b.jpg", "JPEG", {"dpi": (240, 240), "comment": "a comment"}),
    ):
        file = io.BytesIO()
        Image.fromarray(RGB).save(file, format, **options)
        files[name] = file.getvalue()
    made = run(tmp_path, files, "auto_orient", format="tiff")
    png, jpeg = (Image.open(io.BytesIO(made.made[name])) for name in ("a.tif", "b.tif"))
    assert [round(png.info["dpi"][0]), round(jpeg.info["dpi"][0])] == [300, 240]
    tags = made.tags("a.tif")
    assert (tags[33432], tags[315], tags[270]) == ("(c) Jane", "Jané", "A ramp")
    assert made.dropped["a.png"] == ("text",), "TIFF has no entry for a seed"
    assert made.tags("b.tif")[270] == "a comment"
    assert made.dropped["b.jpg"] == ()


def test_density_goes_from_tiff_into_other_formats(tmp_path: Path) -> None:
    files = {"a.tif": tagged()}
    for format in ("png", "jpeg"):
        made = run(tmp_path / format, files, "auto_orient", format=format)
        (data,) = made.made.values()
        assert round(Image.open(io.BytesIO(data)).info["dpi"][0]) == 300


def test_a_density_of_two_values_is_true_or_dropped(tmp_path: Path) -> None:
    fax = {"a.tif": tiff(ramp(), resolution=(204, 98), resolutionunit=2)}
    same = run(tmp_path / "same", fax, "gaussian_blur 1")
    assert (same.tags("a.tif")[282], same.tags("a.tif")[283]) == ((204, 1), (98, 1))
    turned = run(tmp_path / "turned", fax, "rotate 90")
    assert not turned.tags("a.tif").keys() & {282, 283, 296}
    assert turned.dropped["a.tif"] == ("density",)


def damaged(data: bytes, code: int) -> bytes:
    """The file with the values of a tag far behind its end."""
    at = int.from_bytes(data[4:8], "little")
    for place in range(at + 2, at + 2 + 12 * int.from_bytes(data[at : at + 2], "little"), 12):
        if int.from_bytes(data[place : place + 2], "little") == code:
            return data[: place + 8] + (1 << 30).to_bytes(4, "little") + data[place + 12 :]
    raise LookupError(code)


def test_private_and_damaged_tags_are_said(tmp_path: Path) -> None:
    names = {33723: "iptc", 700: "xmp", 34675: "icc"}
    whole = tagged()
    files = {f"{name}.tif": damaged(whole, code) for code, name in names.items()}
    files["private.tif"] = tiff(RGB, photometric="rgb", extratags=[(50001, 2, None, "secret", True)])
    files["layers.tif"] = tiff(RGB, photometric="rgb", extratags=[(37724, 7, 8, b"Adobe\0\0\0", True)])
    files["thumbnail.tif"] = tiff(
        RGB, photometric="rgb", extratags=[(34377, 1, 16, b"8BIM\x04\x0c\0\0\0\0\0\4abcd", True)]
    )
    files["georeference.tif"] = damaged(tiff(RGB, photometric="rgb", extratags=GEO_TAGS), 33922)
    link = tiff(RGB, photometric="rgb", extratags=[(34852, 4, 1, 1 << 29, True)])
    files["link.tif"] = link.replace(b"\x24\x88\4\0", b"\x25\x88\4\0")  # to GPS positions
    made = run(tmp_path, files, "auto_orient")
    assert not made.failed
    expected = dict.fromkeys(files, ("damaged metadata",))
    expected |= {
        "private.tif": ("private metadata",),
        "layers.tif": ("layers",),
        "thumbnail.tif": ("thumbnail",),
    }
    assert made.dropped == expected
    for name in files:
        np.testing.assert_array_equal(made.pixels(name), RGB)


def test_stripped_outputs_have_nothing(tmp_path: Path) -> None:
    files = {"a.tif": tagged(), "map.tif": tiff(ramp(), extratags=GEO_TAGS)}
    made = run(tmp_path, files, "auto_orient", metadata="strip")
    for name in files:
        assert not made.tags(name).keys() & {*GEO, 33723, 700, 34675, 33432, 315, 285, 282}


def test_a_large_output_has_the_same_tags() -> None:
    codec = get("tiff")
    metadata = codec.metadata(tagged(byteorder=">"))
    assert isinstance(codec, Tiff)
    image = np.dstack((RGB, ramp()))
    whole = codec.encode(image, Encoding(extra=1), metadata)
    pieces = codec.in_pieces(Frame(64, 48, 4, extra=1), Encoding(extra=1), metadata).encode(image)
    found = [Ran({"a": data}, {}, {}).tags("a") for data in (whole, pieces)]
    storage = {259, 273, 278, 279, 322, 323, 324, 325}
    first, second = ({k: v for k, v in tags.items() if k not in storage} for tags in found)
    assert first == second
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(pieces)), image)


def test_of_two_sets_of_iptc_the_whole_one_is_taken(tmp_path: Path) -> None:
    """ImageMagick writes both; the first with a quarter of its bytes. Others write the same twice."""

    def both(first: bytes, second: bytes) -> bytes:
        resource = b"8BIM\x04\x04\0\0" + len(second).to_bytes(4) + second + bytes(len(second) % 2)
        tags = [(33723, 7, len(first), first, True), (34377, 1, len(resource), resource, True)]
        return tiff(RGB, photometric="rgb", extratags=tags)

    jane, john = (b"\x1c\x02\x50\0\x04" + name for name in (b"Jane", b"John"))
    files = {
        "cut.tif": both(jane[:6], jane),
        "same.tif": both(jane, jane),
        "other.tif": both(jane, john),
        "inside.tif": both(b"8BIM\x04\x04\0\0\0\0\0\x09" + jane + b"\0", b""),
        "neither.tif": both(b"abcd", b""),
    }
    made = run(tmp_path, files, "auto_orient", format="jpeg")
    assert not made.failed
    found = {name: by_line(made.made[name.replace(".tif", ".jpg")]) for name in files}
    assert found == dict.fromkeys(files, b"Jane") | {"neither.tif": None}
    lost = {name for name, things in made.dropped.items() if "damaged metadata" in things}
    assert lost == {"other.tif", "neither.tif"}
