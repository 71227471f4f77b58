"""Fuzz targets: parsers of metadata blocks, and of texts that users write."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from imageloom import codecs, colours, operators
from imageloom.codecs import exif, notes, packets, photoshop, regions, xmp
from imageloom.codecs.adapt import orientation
from imageloom.codecs.placing import Placing
from imageloom.codecs.tags import order_of, tree
from imageloom.colours import littlecms
from imageloom.driver.naming import check_template, output_name
from imageloom.driver.patterns import Pattern
from imageloom.engines.redis import wire as redis
from imageloom.engines.zeromq import wire as zeromq
from imageloom.errors import ImageloomError
from imageloom.model import Frame, Header, Output, Recipe
from imageloom.recipes.formats import parse_format
from imageloom.recipes.pipeline import Pipeline, to_text
from imageloom.recipes.plan import make_plan
from imageloom.recipes.recipe import from_yaml, parse_output
from imageloom.stores import check_address
from imageloom.testing.fuzzing.images import seeds
from imageloom.testing.fuzzing.target import Target

_FRAME = Frame(20, 10, 3)
_PLACING = Placing(Frame(90, 60, 3), _FRAME, (0.0, 0.5), (-0.5, 0.0), (25.0, -20.0))
_XMP = b"""<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" tiff:Orientation="6"
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:Container="http://ns.google.com/photos/1.0/container/"
 xmlns:Item="http://ns.google.com/photos/1.0/container/item/" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
 xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" hdrgm:Version="1.0" GCamera:MotionPhoto="1"
 GCamera:MicroVideoOffset="99" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="00">
<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary"
 Item:Mime="image/jpeg" Item:Padding="0"/></rdf:li><rdf:li rdf:parseType="Resource"><Container:Item
 Item:Semantic="GainMap" Item:Length="5"/></rdf:li></rdf:Seq></Container:Directory><r:Regions xmlns:r="http://www.metadataworkinggroup.com/schemas/regions/"
 xmlns:a="http://ns.adobe.com/xmp/sType/Area#"><rdf:Bag><rdf:li><r:Area a:x="0.5" a:y="0.4" a:w=".1" a:h=".2"/>
</rdf:li></rdf:Bag></r:Regions><exif:SubjectArea xmlns:exif="http://ns.adobe.com/exif/1.0/"><rdf:Seq>
<rdf:li>30</rdf:li><rdf:li>20</rdf:li></rdf:Seq></exif:SubjectArea></rdf:Description></rdf:RDF>
</x:xmpmeta><?xpacket end='w'?>"""
_RECIPE = b"""decode: fast
outputs:
  gray: grayscale
  edges: {pipeline: [grayscale, canny: {low: 100, high: 200}], format: png, quality: 90, folder: a/b}
"""
_OPTIONS = (
    b"gray=grayscale",
    b"s3://bucket/a%20b?x=1",
    b"file:///photos",
    b"tcp://[::1]:5555",
    b"redis://user:password@host:6379/0",
    b"webp",
)


def targets() -> Iterator[Target]:
    yield Target("exif", read_exif, _blocks, words=(b"II*\0\x08\0\0\0", b"MM\0*", b"\x69\x87\4\0\1\0\0\0"))
    yield Target("xmp", read_xmp, lambda: [_XMP], words=_words(_XMP, b"<![CDATA[", b"&lt;", b"/>", b"--"))
    yield Target("xmp-extension", join_xmp, lambda: [_XMP + b"\0" + _XMP], words=_words(_XMP))
    yield Target("icc", read_icc, _profiles, words=(b"para", b"curv", b"A2B0", b"GRAY", b"XYZ ", b"Lab "))
    yield Target("photoshop", read_resources, lambda: [_RESOURCES], words=(b"8BIM\4\4\0\0", b"8BIM\3\xed"))
    yield Target("pipeline", read_pipeline, _pipelines, words=_words(b" | ".join(_pipelines()), b"'", b"\\"))
    yield Target("recipe", read_yaml, lambda: [_RECIPE], words=_words(_RECIPE, b"&a ", b"*a", b"!!", b"<<: "))
    yield Target(
        "template", read_template, lambda: [b"{dir}/{stem}-{page}.{ext}"], words=(b"{stem}", b"{ext!r:>9}")
    )
    yield Target(
        "pattern",
        read_pattern,
        lambda: [b"2024/**/*.{jpg,png}", b"[!a-f]?.png", b"drafts/", b"{1..9}.jpg"],
        words=(b"**/", b"{a,b}", b"[[:alpha:]]", b"{1..99}", b"@(a|b)", b"\\", b"!", b"[a-"),
    )
    yield Target("options", read_options, lambda: list(_OPTIONS), words=_words(b" ".join(_OPTIONS)))


def _words(text: bytes, *more: bytes) -> tuple[bytes, ...]:
    return (*sorted(set(text.split())), *more)


def _blocks() -> list[bytes]:
    found = [codecs.read_metadata(data, "jpeg").exif for data in seeds("jpeg")]
    return [*filter(None, found), *seeds("tiff")]


def read_exif(data: bytes) -> None:
    """Read and adapt an EXIF block. Damaged blocks are kept or dropped, without an error."""
    orientation(data)
    exif.is_adobe_rgb(data)
    tree(data, int.from_bytes(data[4:8], order_of(data)), order_of(data), lambda _: True)
    for converted in (False, True):
        exif.adapted(data, _FRAME, converted, lambda: _PLACING)
    notes.without_false(data, _FRAME, moved=True)
    notes.without(data, notes.DENSITY)


def read_xmp(data: bytes) -> None:
    """Read and edit an XMP packet."""
    xmp.claims(data)
    xmp.orientation(data)
    xmp.upright(xmp.in_srgb(data), 20, 10)
    for lengths in ({"GainMap": 7}, {"MotionPhoto": 7}, {}):
        with suppress(ValueError):  # it cannot be edited
            regions.placed(data, _PLACING)
            xmp.without_old_pictures(xmp.with_lengths(data, lengths), thumbnails=True, depth=True)


def join_xmp(data: bytes) -> None:
    """Join the two packets on both sides of a NUL."""
    main, _, extension = data.partition(b"\0")
    packets.joined(main, extension)
    packets.orientation(main)


def _profiles() -> list[bytes]:
    stated = ("cicp 12 13", "gamma 45455 31270 32900 64000 33000 30000 60000 15000 6000", "Adobe RGB")
    return [colours.built(text, is_gray=is_gray) for text in stated for is_gray in (False, True)]


def read_icc(data: bytes) -> None:
    """Read a profile, and convert a pixel."""
    for channels in (1, 3):
        text = colours.of_profile(data, channels)
        if text:
            colours.label(text)
    colours.is_srgb(data)
    for shape in ((1, 1), (1, 1, 3), (1, 1, 4)):
        with suppress(ValueError):  # it cannot be used
            littlecms.converted(np.full(shape, 77, np.uint8), data)


_RESOURCES = photoshop.written(b"\x1c\x02\x50\0\x04Jane", b"8BIM\x04\x0a\0\0\0\0\0\1\1\0") + (
    b"8BIM\x03\xed\0\0\0\0\0\x10" + struct.pack(">IHHIHH", 300 << 16, 1, 1, 300 << 16, 1, 1)
)


def read_resources(data: bytes) -> None:
    """Read Photoshop's resources, as of a file."""
    found = photoshop.read(data)
    photoshop.written(found.iptc, found.lasting)


def _pipelines() -> list[bytes]:
    return [example.encode() for one in operators.operators() for example in one.examples]


def read_pipeline(data: bytes) -> None:
    """Parse a pipeline, write it as text, and parse it again. Plan an image."""
    text = data.decode(errors="surrogateescape")
    found = Pipeline.parse(text)
    assert Pipeline.parse(to_text(found.steps)) == found
    make_plan(Header("jpeg", Frame(300, 200, 3)), Recipe((Output(found.steps),)))


def read_yaml(data: bytes) -> None:
    """Read the contents of a recipe's file."""
    found = from_yaml(data, Path("recipe.yaml"))
    make_plan(Header("jpeg", _FRAME), found)


def read_template(data: bytes) -> None:
    """Check a template of output names, and make a name."""
    template = data.decode(errors="surrogateescape")
    check_template(template)
    output_name("a folder/an image.JPG", "jpeg", Output(()), template)


def read_pattern(data: bytes) -> None:
    """Compile a pattern, and use it."""
    pattern = Pattern(data.decode(errors="surrogateescape"))
    for key in ("2024/05/a b.JPG", "drafts/", "[a", "x" * 200):
        pattern.fits(key)


def read_options(data: bytes) -> None:
    """Parse an output and a format of the command line, and addresses."""
    text = data.decode(errors="surrogateescape")
    for parse in (parse_output, parse_format, check_address, zeromq.split, redis.shown):
        with suppress(ImageloomError):
            parse(text)
