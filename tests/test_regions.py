"""What metadata says of positions, checked with exiftool: it names the same part of the picture in the output."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imageloom.codecs import regions
from imageloom.codecs.placing import Placing
from imageloom.codecs.subjects import moved_subject
from imageloom.model import Frame
from program import Run

with_exiftool = pytest.mark.skipif(not shutil.which("exiftool"), reason="exiftool is not installed")
SIZE = (640, 480)
FACES = {"Ann": (96, 64, 224, 192), "Bob": (448, 320, 576, 416)}
"""The left, the top, the right and the bottom of each face in the stored picture: red and blue."""
CHANNELS = {"Ann": 0, "Bob": 2}
Box = tuple[float, float, float, float]


def exiftool(*args: str | Path) -> str:
    done = subprocess.run(["exiftool", *args], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of all orientations whose metadata says in many ways where the faces are."""
    folder = tmp_path_factory.mktemp("in")
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    width, height = SIZE
    mwg, microsoft, iptc = [], [], []
    for name, (left, top, right, bottom) in FACES.items():
        pixels[top:bottom, left:right, CHANNELS[name]] = 255
        x, y, w, h = left / width, top / height, (right - left) / width, (bottom - top) / height
        area = {"X": x + w / 2, "Y": y + h / 2, "W": w, "H": h, "Unit": "normalized"}
        mwg.append({"Area": area, "Name": name, "Type": "Face", "Rotation": 0.5})
        microsoft.append({"PersonDisplayName": name, "Rectangle": f"{x}, {y}, {w}, {h}"})
        boundary: dict[str, object] = {"RbShape": "rectangle", "RbUnit": "pixel"}
        boundary |= {"RbX": left, "RbY": top, "RbW": right - left, "RbH": bottom - top}
        iptc.append({"RId": name, "RegionBoundary": boundary})
    tags = {
        "SourceFile": "*",
        "RegionInfo": {"AppliedToDimensions": {"W": 640, "H": 480, "Unit": "pixel"}, "RegionList": mwg},
        "RegionInfoMP": {"Regions": microsoft},
        "ImageRegion": iptc,
        "ExifIFD:SubjectArea": "160 128 128 128",
        "ExifIFD:SubjectLocation": "512 368",
        "ExifIFD:FocalPlaneXResolution": 4000,
        "ExifIFD:FocalPlaneYResolution": 2000,
        "XMP-exif:SubjectArea": [160, 128, 128, 128],
        "XMP-exif:FocalPlaneXResolution": 4000,
        "XMP-exif:FocalPlaneYResolution": 2000,
    }
    stated = tmp_path_factory.mktemp("tags") / "tags.json"
    stated.write_text(json.dumps([tags]))
    first = folder / "1.jpg"
    Image.fromarray(pixels).save(first, quality=95, subsampling=0)
    exiftool("-q", "-n", "-overwrite_original", f"-json={stated}", first)
    calls: list[str | Path] = []
    for orientation in range(2, 9):
        copy = folder / f"{orientation}.jpg"
        shutil.copy(first, copy)
        calls += ["-q", "-n", "-overwrite_original", f"-IFD0:Orientation={orientation}", copy, "-execute"]
    exiftool(*calls)
    return folder


def tags_of(path: Path) -> dict[str, Any]:
    read: list[dict[str, Any]] = json.loads(exiftool("-json", "-struct", "-n", "-G1", path))
    return read[0]


def seen(path: Path) -> dict[str, Box]:
    """Where the pixels of the faces are."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    found = {}
    for name, channel in CHANNELS.items():
        rows, columns = np.nonzero(pixels[..., channel] > 128)
        if len(rows):
            found[name] = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return found


def check(path: Path) -> dict[str, Any]:
    """All metadata of an output is true of its pixels."""
    boxes, tags = seen(path), tags_of(path)
    with Image.open(path) as image:
        width, height = image.size
    info = tags.get("XMP-mwg-rs:RegionInfo", {"RegionList": []})
    if boxes:
        assert (info["AppliedToDimensions"]["W"], info["AppliedToDimensions"]["H"]) == (width, height)
    stated: list[dict[str, Box]] = [{}, {}, {}]
    for region in info.get("RegionList", []):
        a = {name: float(value) for name, value in region["Area"].items() if name in "XYWH"}
        x, y, w, h = a["X"] * width, a["Y"] * height, a["W"] * width, a["H"] * height
        stated[0][region["Name"]] = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    for region in tags.get("XMP-MP:RegionInfoMP", {}).get("Regions", []):
        x, y, w, h = map(float, region["Rectangle"].split(", "))
        name = region["PersonDisplayName"]
        stated[1][name] = (x * width, y * height, (x + w) * width, (y + h) * height)
    for region in tags.get("XMP-iptcExt:ImageRegion", []):
        b = region["RegionBoundary"]
        stated[2][region["RId"]] = (b["RbX"], b["RbY"], b["RbX"] + b["RbW"], b["RbY"] + b["RbH"])
    for found in stated:
        assert found.keys() == boxes.keys()
        for name, box in boxes.items():
            np.testing.assert_allclose(found[name], box, atol=1.1, err_msg=name)
    subjects = [tags.get("ExifIFD:SubjectArea"), tags.get("XMP-exif:SubjectArea")]
    for subject in subjects:
        assert (subject is not None) == ("Ann" in boxes)
        if subject is not None:
            numbers = subject.split() if isinstance(subject, str) else subject
            x, y, w, h = map(float, numbers)
            np.testing.assert_allclose((x - w / 2, y - h / 2, x + w / 2, y + h / 2), boxes["Ann"], atol=2)
    if where := tags.get("ExifIFD:SubjectLocation"):
        x, y = map(float, where.split())
        left, top, right, bottom = boxes["Bob"]
        assert left <= x <= right
        assert top <= y <= bottom
    return tags


@with_exiftool
@pytest.mark.parametrize(
    ("pipeline", "sides"),
    [
        ("resize 320x", (2000, 1000)),
        ("resize 320x480", (2000, 2000)),
        ("resize 200x200 fit=cover", None),
        ("resize 400x400 fit=pad background=#000000", (2500, 1250)),
        ("crop 400x300+160+80", (4000, 2000)),
        ("crop 300x240+0+0 | rotate 90 | flip | border 10 color=#000000", (2000, 4000)),
        ("rotate 270 | pad 700x800+100+50", (2000, 4000)),
        ("flip vertical | gaussian_blur 1 | overlay {logo} opacity=0.1", (4000, 2000)),
        ("crop 100x100+300+200", (4000, 2000)),
        ("rotate 180 | invert", (4000, 2000)),
    ],
)
def test_regions_are_moved_with_the_pixels(
    pipeline: str, sides: tuple[int, int] | None, photos: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "logo.png")
    run = Run(
        pipeline.format(logo=tmp_path / "logo.png"), photos / "1.jpg", tmp_path / "out", engine="serial"
    )
    tags = tags_of(tmp_path / "out" / "1.jpg") if "invert" in pipeline else check(tmp_path / "out" / "1.jpg")
    found = tuple(tags[f"ExifIFD:FocalPlane{axis}Resolution"] for axis in "XY")
    in_xmp = tuple(tags[f"XMP-exif:FocalPlane{axis}Resolution"] for axis in "XY")
    assert found == pytest.approx(in_xmp)
    if sides:
        assert found == sides
    is_turned = any(word in pipeline for word in ("rotate", "flip"))
    for region in tags.get("XMP-mwg-rs:RegionInfo", {}).get("RegionList", []):
        assert ("Rotation" in region) == (not is_turned)
    has_all = {"Ann", "Bob"} <= seen(tmp_path / "out" / "1.jpg").keys() or "invert" in pipeline
    assert run.summary.dropped.get("regions", 0) == (0 if has_all else 1)
    if "crop 100x100" in pipeline:
        assert "XMP-mwg-rs:RegionInfo" not in tags


@with_exiftool
def test_regions_are_of_the_stored_image_and_turned_by_its_orientation(photos: Path, tmp_path: Path) -> None:
    Run("resize 50%", photos, tmp_path / "out", engine="serial")
    for orientation in range(1, 9):
        tags = check(tmp_path / "out" / f"{orientation}.jpg")
        assert tags.get("IFD0:Orientation", 1) == 1


@with_exiftool
@pytest.mark.parametrize("pipeline", ["trim", "crop 300x300 at=attention"])
def test_regions_whose_place_is_not_known_are_dropped(pipeline: str, photos: Path, tmp_path: Path) -> None:
    run = Run(pipeline, photos / "1.jpg", tmp_path / "out", engine="serial")
    tags = tags_of(tmp_path / "out" / "1.jpg")
    assert not any("Region" in tag or "Subject" in tag for tag in tags)
    assert tags["ExifIFD:FocalPlaneXResolution"] == tags["XMP-exif:FocalPlaneXResolution"] == 4000
    assert run.summary.dropped == {"regions": 1}


_NAMES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "apple-fi": "http://ns.apple.com/faceinfo/1.0/",
    "acdsee-rs": "http://ns.acdsee.com/regions/",
    "acdsee-stArea": "http://ns.acdsee.com/sType/Area#",
    "MP": "http://ns.microsoft.com/photo/1.2/",
    "MPRI": "http://ns.microsoft.com/photo/1.2/t/RegionInfo#",
    "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
_LEFT_HALF = Placing(Frame(200, 100, 3), Frame(100, 100, 3))
_MIRRORED = Placing(Frame(200, 100, 3), Frame(200, 100, 3), (-1.0, 0.0), (0.0, 1.0), (200.0, 0.0))
_HALVED = Placing(Frame(200, 100, 3), Frame(100, 50, 3), (0.5, 0.0), (0.0, 0.5))
_AREA = "<rdf:li><mwg-rs:Area stArea:x='{}' stArea:y='0.5' {}/></rdf:li>"
_CIRCLE = "stArea:d='0.2' stArea:unit='normalized'"


@pytest.mark.parametrize(
    ("placing", "before", "after"),
    [
        (_LEFT_HALF, _AREA.format("0.25", ""), _AREA.format("0.5", "")),
        (_LEFT_HALF, _AREA.format("0.75", ""), ""),
        (_LEFT_HALF, _AREA.format("nan", ""), ""),
        (_LEFT_HALF, "<rdf:li><mwg-rs:Area/></rdf:li>", ""),
        (_HALVED, _AREA.format("0.25", _CIRCLE), _AREA.format("0.25", _CIRCLE)),
        (_MIRRORED, _AREA.format("0.25", _CIRCLE), _AREA.format("0.75", _CIRCLE)),
        (
            _MIRRORED,
            "<rdf:li><rdf:Description apple-fi:AngleInfoRoll='270' apple-fi:FaceID='7'/></rdf:li>",
            "<rdf:li><rdf:Description apple-fi:FaceID='7'/></rdf:li>",
        ),
        (
            _LEFT_HALF,
            "<rdf:li><rdf:Description MPReg:Rectangle='0.4, 0.1, 0.2, 0.3' MPReg:PersonDisplayName='A'/></rdf:li>",
            "<rdf:li><rdf:Description MPReg:Rectangle='0.8, 0.1, 0.2, 0.3' MPReg:PersonDisplayName='A'/></rdf:li>",
        ),
        (_LEFT_HALF, "<MP:RegionInfo><rdf:li MPReg:Rectangle='0.6, 0.1, 0.2, 0.3'/></MP:RegionInfo>", ""),
        (
            _MIRRORED,
            "<rdf:li><acdsee-rs:DLYArea acdsee-stArea:x='.1' acdsee-stArea:y='.5' acdsee-stArea:w='.1' "
            "acdsee-stArea:h='.2'/></rdf:li>",
            "<rdf:li><acdsee-rs:DLYArea acdsee-stArea:x='0.9' acdsee-stArea:y='0.5' acdsee-stArea:w='0.1' "
            "acdsee-stArea:h='0.2'/></rdf:li>",
        ),
        (
            _MIRRORED,
            "<rdf:li><Iptc4xmpExt:RegionBoundary Iptc4xmpExt:rbUnit='relative' Iptc4xmpExt:rbRx='0.1'/></rdf:li>",
            "",
        ),
        (_HALVED, "<exif:SubjectArea><rdf:li>9</rdf:li><rdf:li>many</rdf:li></exif:SubjectArea>", ""),
        (_HALVED, "<exif:FocalPlaneXResolution>5/0</exif:FocalPlaneXResolution>", ""),
    ],
)
def test_regions_in_all_notations(placing: Placing, before: str, after: str) -> None:
    names = " ".join(f"xmlns:{prefix}='{uri}'" for prefix, uri in _NAMES.items())
    start, end = f"<rdf:RDF {names}>", "</rdf:RDF>"
    found, has_lost = regions.placed(f"{start}{before}{end}".encode(), placing)
    assert found.decode() == f"{start}{after}{end}"
    assert has_lost == (not after)


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ((60, 40), (30, 20)),
        ((60, 40, 10), (30, 20, 5)),
        ((60, 40, 10, 20), (30, 20, 5, 10)),
        ((60, 40, 0, 0), (30, 20, 0, 0)),
        ((0, 0, 100, 80), (12, 10, 25, 20)),
        ((900, 40), None),
        ((900, 40, 10, 20), None),
        ((), None),
    ],
)
def test_a_subject_is_a_point_a_circle_or_a_rectangle(
    stated: tuple[int, ...], found: tuple[int, ...] | None
) -> None:
    assert moved_subject(stated, _HALVED) == found


def test_a_packet_of_many_regions_takes_a_short_time() -> None:
    names = " ".join(f"xmlns:{prefix}='{uri}'" for prefix, uri in _NAMES.items())
    packet = f"<rdf:RDF {names}>{_AREA.format('0.75', '') * 4900}</rdf:RDF>".encode()
    start = time.process_time()
    assert regions.placed(packet, _LEFT_HALF)[1]
    assert time.process_time() - start < 2
