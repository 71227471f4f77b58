"""What a JPEG holds beside its pixels: kept, made true, or dropped and reported, with and without tiles."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps, IptcImagePlugin

from faithful import scene
from imageloom import codecs, process
from imageloom.codecs import exif, jpegmetadata, pictures, xmp
from imageloom.codecs.adapt import Target, for_output
from imageloom.codecs.metadata import Density, Metadata, Text
from imageloom.codecs.piecewise import jpeg as piecewise
from imageloom.codecs.tags import first_directory
from imageloom.model import Encoding, Frame, Thing
from imageloom.records.events import Done, Event
from jpegs import both_ways, exif_segment, inserted, jpeg, packet, pixels_of, segment, xmp_segment

CONTAINER = (
    'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
    'xmlns:Item="http://ns.google.com/photos/1.0/container/item/"'
)
HDRGM = 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
CAMERA = 'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1"'
VIDEO = struct.pack(">I4s4sI8s", 24, b"ftyp", b"mp42", 0, b"mp42isom") + b"\xff\xda\xff\xd8" * 700
TURNED = "auto_orient"
ALL: tuple[Thing, ...] = ("XMP", "video", "gain map")


def directory(*items: tuple[str, int]) -> str:
    listed = "".join(
        f'<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="{semantic}" Item:Mime="image/jpeg"'
        + (f' Item:Length="{length}"' if length else "")
        + "/></rdf:li>"
        for semantic, length in (("Primary", 0), *items)
    )
    return f"<Container:Directory><rdf:Seq>{listed}</rdf:Seq></Container:Directory>"


def gain_map() -> bytes:
    return inserted(jpeg(scene(1)), xmp_segment(packet(HDRGM)))


def ultra_hdr() -> bytes:
    claims = packet(f"{CONTAINER} {HDRGM}", directory(("GainMap", len(gain_map()))))
    return inserted(jpeg(), xmp_segment(claims)) + gain_map()


def motion_photo() -> bytes:
    claims = packet(f"{CONTAINER} {CAMERA}", directory(("MotionPhoto", len(VIDEO))))
    return inserted(jpeg(), xmp_segment(claims)) + VIDEO


def dropped(folder: Path, data: bytes, pipeline: str, **options: Any) -> tuple[bytes, set[Thing]]:
    """The output of a run, and what it reports as dropped."""
    (folder / "in").mkdir()
    (folder / "in" / "image.jpg").write_bytes(data)
    lost: set[Thing] = set()

    def listen(event: Event) -> None:
        if isinstance(event, Done):
            lost.update(event.result.dropped)

    process(
        pipeline,
        folder / "in",
        folder / "out",
        engine="serial",
        ledger=folder / "l",
        listeners=[listen],
        **options,
    )
    (output,) = [path for path in (folder / "out").iterdir() if path.is_file()]
    return output.read_bytes(), lost


# Orientation


@pytest.mark.parametrize(
    ("segments", "orientation"),
    [
        (exif_segment(6) + exif_segment(1), 6),
        (exif_segment(1) + exif_segment(6), 1),
        (xmp_segment(packet('xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="8"')), 8),
        (
            exif_segment(3)
            + xmp_segment(packet('tiff:Orientation="8"').replace(b" tiff", b' xmlns:tiff="t" tiff')),
            3,
        ),
        (exif_segment(9) + xmp_segment(packet('xmlns:tiff="t" tiff:Orientation = "6"')), 6),
    ],
)
@pytest.mark.parametrize("before", [None, 0xC4, 0xDA])
def test_one_orientation_counts_and_all_are_reset(
    segments: bytes, orientation: int, before: int | None, tmp_path: Path
) -> None:
    output = both_ways(tmp_path, inserted(jpeg(), segments, before), TURNED)
    found = pixels_of(output)
    assert found.size == ((75, 97) if orientation > 4 else (97, 75))
    assert codecs.header_of(output).orientation == 1
    assert ImageOps.exif_transpose(found).size == found.size
    assert output.count(b"Exif\0\0") <= 1
    assert b'Orientation="8"' not in output


def test_a_block_of_many_segments_is_whole(tmp_path: Path) -> None:
    comment = struct.pack("<HHII", 0x010E, 2, 150_000, 38)
    block = exif_segment(6, comment, entries=2)[10:] + b"c" * 149_999 + b"\0"
    parts = [segment(0xE1, b"Exif\0\0" + block[at : at + 65_000]) for at in range(0, len(block), 65_000)]
    output = both_ways(tmp_path, inserted(jpeg(), b"".join(parts)), TURNED)
    found = pixels_of(output)
    assert found.size == (75, 97)
    assert found.getexif()[0x010E] == "c" * 149_999
    assert found.getexif()[0x0112] == 1


# Thumbnails


def in_first_directory(picture: bytes) -> bytes:
    entries = struct.pack("<HHIIHHII", 0x201, 4, 1, 8 + 2 + 48 + 4, 0x202, 4, 1, len(picture))
    make = struct.pack("<HHI4s", 0x213, 3, 1, b"\1\0\0\0")
    block = exif_segment(1, entries + make, entries=4)[10:] + picture
    return segment(0xE1, b"Exif\0\0" + block)


def in_maker_note(picture: bytes) -> bytes:
    below = struct.pack("<HHIHHII", 0x8769, 4, 1, 38, 0, 0, 0)[:-10] + b""
    note = (
        struct.pack("<HHHII", 1, 0x927C, 7, len(picture) + 8, 38 + 18) + bytes(4) + b"Maker\0\0\0" + picture
    )
    return segment(0xE1, b"Exif\0\0" + exif_segment(1, below, entries=2)[10:] + note)


def in_xmp(picture: bytes) -> bytes:
    spaces = 'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:xmpGImg="http://ns.adobe.com/xap/1.0/g/img/"'
    image = (
        f"<xmp:Thumbnails><rdf:Alt><rdf:li><xmpGImg:image>{picture.hex()}</xmpGImg:image></rdf:li></rdf:Alt>"
    )
    return xmp_segment(packet(spaces, image + "</xmp:Thumbnails>"))


def in_photoshop(picture: bytes) -> bytes:
    body = bytes(28) + picture
    return segment(0xED, b"Photoshop 3.0\x008BIM\x04\x0c\0\0" + struct.pack(">I", len(body)) + body + b"\0")


def in_jfxx(picture: bytes) -> bytes:
    return segment(0xE0, b"JFXX\0\x10" + picture)


def behind_the_image(picture: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("place", [in_first_directory, in_maker_note, in_xmp, in_photoshop, in_jfxx])
def test_no_byte_of_the_old_thumbnail_is_left(place: Any, tmp_path: Path) -> None:
    small = jpeg(scene(3, width=24, height=16), quality=30)
    given = inserted(jpeg(), place(small))
    output, lost = dropped(tmp_path, given, "crop 40x40+0+0")
    assert "thumbnail" in lost
    core = small[small.index(b"\xff\xda") + 14 : -2]
    assert core not in output
    assert core.hex().encode() not in output
    block = pixels_of(output).getexif()
    assert not {0x201, 0x202} & set(block)
    if place is in_first_directory:
        assert block[0x213] == 1
    if place is in_xmp:
        assert b'dc:source="loom"' in jpegmetadata.read(output).xmp


# Photoshop, JFIF, comments, the rest


def test_iptc_and_the_copyright_flag_stay_and_the_rest_is_reported(tmp_path: Path) -> None:
    records = struct.pack(">BBBH", 0x1C, 2, 80, 4) + b"Jane"
    resources = [(0x0404, records), (0x040A, b"\1"), (0x03F3, bytes(9))]
    body = b"".join(
        b"8BIM" + struct.pack(">HHI", kind, 0, len(data)) + data + bytes(len(data) % 2)
        for kind, data in resources
    )
    split = [segment(0xED, b"Photoshop 3.0\0" + part) for part in (body[:30], body[30:])]
    output, lost = dropped(tmp_path, inserted(jpeg(), b"".join(split)), "resize 50%")
    found = pixels_of(output)
    fields = IptcImagePlugin.getiptcinfo(found)  # type: ignore[arg-type]
    assert fields == {(2, 80): b"Jane"}
    assert found.info["photoshop"][0x040A] == b"\1"
    assert lost == {"private metadata"}


@pytest.mark.parametrize(("unit", "dpi"), [(1, 300), (2, 254)])
def test_density_stays(unit: int, dpi: int, tmp_path: Path) -> None:
    given = bytearray(jpeg())
    given[13:18] = struct.pack(">BHH", unit, 300 if unit == 1 else 100, 300 if unit == 1 else 100)
    output = both_ways(tmp_path, bytes(given), "resize 50%")
    assert round(pixels_of(output).info["dpi"][0]) == dpi


def test_comments_stay(tmp_path: Path) -> None:
    given = inserted(jpeg(), segment(0xFE, b"first") + segment(0xFE, b"gr\xc3\xbc\xc3\x9fe"))
    output = both_ways(tmp_path, given)
    assert jpegmetadata.read(output).texts == (Text("Comment", "first"), Text("Comment", "grüße"))


@pytest.mark.parametrize(
    ("more", "thing"),
    [
        (segment(0xEB, b"JP\0\1\0\0\0\1" + bytes(40)), "content credentials"),
        (segment(0xE2, b"FPXR\0" + bytes(20)), "private metadata"),
        (segment(0xEC, b"Ducky" + bytes(20)), "private metadata"),
        (segment(0xE5, b"RMETA\0" + bytes(20)), "private metadata"),
        (exif_segment(1) + exif_segment(6), "damaged metadata"),
        (segment(0xE2, b"ICC_PROFILE\0\1\2" + bytes(200)), "colour profile"),
    ],
)
def test_what_no_output_holds_is_reported(more: bytes, thing: Thing, tmp_path: Path) -> None:
    assert thing in dropped(tmp_path, inserted(jpeg(), more), "resize 50%")[1]


def test_a_profile_with_wrong_numbers_is_kept_if_its_size_is_right() -> None:
    profile = struct.pack(">I", 200) + b"icc " + bytes(8) + b"RGB " + bytes(180)
    parts = (segment(0xE2, b"ICC_PROFILE\0\0\0" + part) for part in (profile[:90], profile[90:]))
    assert jpegmetadata.read(inserted(jpeg(), b"".join(parts))).icc == profile


# Behind the image


@pytest.mark.parametrize("more", [VIDEO, gain_map(), b"x" * 900 + b"\xff\xd9"])
def test_data_behind_the_image_is_reported(more: bytes, tmp_path: Path) -> None:
    thing = {VIDEO: "video", gain_map(): "pages"}.get(more, "private metadata")
    output, lost = dropped(tmp_path, jpeg() + more, "resize 50%")
    assert lost == {thing}
    assert output.endswith(b"\xff\xd9")


def test_a_gain_map_stays_with_its_claims_if_no_pixel_changes(tmp_path: Path) -> None:
    output = both_ways(tmp_path, ultra_hdr(), TURNED)
    assert output.endswith(gain_map())
    found = xmp.claims(jpegmetadata.read(output).xmp)
    assert found.items == (xmp.Item("Primary", 0), xmp.Item("GainMap", len(gain_map())))
    with Image.open(io.BytesIO(output)) as image:
        entries = image._getmp()[0xB002]  # type: ignore[attr-defined]
        assert [entry["Size"] for entry in entries] == [len(output) - len(gain_map()), len(gain_map())]


@pytest.mark.parametrize("target", ["jpeg", "png", "webp"])
def test_a_gain_map_that_is_dropped_is_claimed_no_more(target: Any, tmp_path: Path) -> None:
    output, lost = dropped(tmp_path, ultra_hdr(), "invert", format=target)
    assert "gain map" in lost
    assert not any(word in output for word in (b"hdrgm", b"GainMap", b"Container:Directory"))
    assert b'dc:source="loom"' in output


def test_a_motion_photo_keeps_its_video_while_all_of_the_picture_is_shown(tmp_path: Path) -> None:
    output = both_ways(tmp_path, motion_photo(), "resize 50%")
    assert output.endswith(VIDEO)
    found = jpegmetadata.read(output)
    assert found.video == VIDEO
    assert xmp.claims(found.xmp).items[1] == xmp.Item("MotionPhoto", len(VIDEO))


@pytest.mark.parametrize(("pipeline", "target"), [("crop 20x20+0+0", "jpeg"), ("resize 50%", "png")])
def test_a_video_that_is_dropped_is_claimed_no_more(pipeline: str, target: Any, tmp_path: Path) -> None:
    output, lost = dropped(tmp_path, motion_photo(), pipeline, format=target)
    assert lost == {"video"}
    assert b"MotionPhoto" not in output
    assert b'dc:source="loom"' in output


def test_an_older_motion_photo_is_found_from_the_end(tmp_path: Path) -> None:
    older = f'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MicroVideoOffset="{len(VIDEO)}"'
    output = both_ways(tmp_path, inserted(jpeg(), xmp_segment(packet(older))) + VIDEO, "resize 50%")
    assert output.endswith(VIDEO)
    assert f'MicroVideoOffset="{len(VIDEO)}"'.encode() in output


def test_gain_map_and_video_stand_behind_an_image_in_pieces() -> None:
    image = scene(3, width=300, height=200)
    metadata = Metadata(density=Density(300, 300), gain_map=gain_map(), video=VIDEO)
    around = jpegmetadata.around(metadata)
    for subsampling in ("420", "444", "422"):
        data = piecewise.Encoder(Frame.of(image), 90, around, subsampling).encode(image)
        found = jpegmetadata.read(data)
        assert found.gain_map == gain_map()
        assert found.density == metadata.density
        whole = codecs.encode("jpeg", image, Encoding(90, subsampling=subsampling))
        assert isinstance(whole, bytes)
        assert codecs.header_of(data).subsampling == subsampling
        assert (
            codecs.decode(data, codecs.header_of(data)) == codecs.decode(whole, codecs.header_of(whole))
        ).all()


def test_an_index_names_the_gain_map() -> None:
    data = jpegmetadata.insert(jpeg(), Metadata(gain_map=gain_map()))
    body = data.index(b"MPF\0") + 4
    assert pictures.entries_of(data[body : body + 200], body) == [
        (0, data.index(gain_map()), len(gain_map()))
    ]


def test_depth_maps_go_where_pixels_change(tmp_path: Path) -> None:
    depth = 'xmlns:GDepth="http://ns.google.com/photos/1.0/depthmap/" GDepth:Data="AAAA" GDepth:Near="1"'
    given = inserted(jpeg(), xmp_segment(packet(depth)))
    output, lost = dropped(tmp_path, given, "resize 50%")
    assert lost == {"depth map"}
    assert b"GDepth" not in output
    assert b'dc:source="loom"' in output


@pytest.mark.parametrize(
    "hostile",
    [
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + packet(CONTAINER, directory(("GainMap", 5))),
        packet(CONTAINER, directory(("GainMap", 5)))[:-9],
        packet(CONTAINER, "<a>" * 500 + "</a>" * 500),
        packet(CONTAINER, directory(*[("GainMap", 5)] * 500)),
        b"container/\xff\xfe\0<\0a\0",
    ],
)
def test_xmp_that_cannot_be_edited_is_dropped(hostile: bytes) -> None:
    carried = for_output(Metadata(xmp=hostile), Target(Frame(4, 4, 3), ALL, moved=True))
    assert carried.metadata.xmp == b""
    assert carried.dropped == {"XMP"}


@pytest.mark.parametrize(("asked", "expected"), [("keep", "444"), ("422", "422"), (None, "420")])
def test_subsampling(asked: Any, expected: str, tmp_path: Path) -> None:
    output = both_ways(tmp_path, jpeg(subsampling=0), subsampling=asked)
    assert codecs.header_of(output).subsampling == expected


def test_sizes_in_exif_and_xmp_are_those_of_the_output(tmp_path: Path) -> None:
    spaces = 'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"'
    inner = "<tiff:ImageLength>75</tiff:ImageLength><exif:PixelYDimension>75</exif:PixelYDimension>"
    sizes = struct.pack("<HHIIHHII", 0x0100, 4, 1, 97, 0x0101, 4, 1, 75)
    segments = exif_segment(6, sizes, entries=3) + xmp_segment(
        packet(f'{spaces} exif:PixelXDimension="97"', inner)
    )
    output = both_ways(tmp_path, inserted(jpeg(), segments), "crop 30x20+0+0")
    block = pixels_of(output).getexif()
    assert (block[0x0100], block[0x0101]) == (30, 20)
    found = jpegmetadata.read(output).xmp
    assert b'exif:PixelXDimension="30"' in found
    assert b"<tiff:ImageLength>20</tiff:ImageLength><exif:PixelYDimension>20</exif:PixelYDimension>" in found


def test_an_entry_of_a_thumbnail_is_removed_in_either_byte_order() -> None:
    for order, sign in (("II", "<"), ("MM", ">")):
        entries = [(0x010F, 2, 4, 0), (0x0201, 4, 1, 62), (0x0202, 4, 1, 9), (0x0213, 4, 1, 1)]
        head = order.encode() + struct.pack(f"{sign}HIH", 42, 8, len(entries))
        body = b"".join(struct.pack(f"{sign}HHII", *entry) for entry in entries)
        block = head + body + bytes(4) + b"\xff\xd8picture"
        made = exif.adapted(block, Frame(4, 4, 3))
        assert made.has_lost_thumbnail
        assert b"picture" not in made.exif
        assert set(first_directory(made.exif).entries) == {0x010F, 0x0213}


def test_subsampling_is_found_behind_long_segments() -> None:
    given = inserted(jpeg(subsampling=1), segment(0xE7, bytes(60_000)))
    header = codecs.read_header(lambda size: given[:size], len(given))
    assert header.subsampling == codecs.header_of(jpeg(subsampling=1)).subsampling == "422"


@pytest.mark.parametrize(
    ("density", "written", "dropped"),
    [
        (Density(300.0, 150.0), Density(300.0, 150.0), {}),
        (Density(100_000.0, 80_000.0), Density(39_370.0, 31_496.0, "cm"), {}),
        (Density(0.3, 0.3), None, {"density": 1}),
        (Density(200_000.0, 9.0, "none"), None, {"density": 1}),
    ],
)
def test_a_density_is_stated_or_its_loss_is_reported(
    density: Density, written: Density | None, dropped: dict[Thing, int], tmp_path: Path
) -> None:
    png = codecs.encode(
        "png", codecs.decode(jpeg(), codecs.header_of(jpeg())), Encoding(), Metadata(density=density)
    )
    assert isinstance(png, bytes)
    (tmp_path / "a.png").write_bytes(png)
    made = process("invert", tmp_path / "a.png", tmp_path / "out", format="jpeg")
    assert made.dropped == dropped
    assert jpegmetadata.read((tmp_path / "out" / "a.jpg").read_bytes()).density == written
