"""WebP: lossless stays lossless, animations give their first frame, blocks of metadata. Whole and in tiles."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from faithful import both_ways, opened, saved, scene
from imageloom.codecs import header_of, jpegmetadata
from imageloom.codecs.metadata import Metadata
from imageloom.model import Output, Recipe
from imageloom.recipes.explain import explain

ORIENTED = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
)
GRAY_PROFILE = bytes(16) + b"GRAY" + bytes(108)


def clear() -> Image.Image:
    """Colours below an alpha of zero."""
    pixels = scene(4)
    pixels[:10, :, 3] = 0
    return Image.fromarray(pixels)


@pytest.mark.parametrize("channels", [3, 4])
def test_lossless_stays_lossless(channels: int, tmp_path: Path) -> None:
    image = clear() if channels == 4 else Image.fromarray(scene(3))
    data = saved(image, "WEBP", lossless=True, exact=True)
    ran = both_ways(tmp_path, data, "auto_orient")
    assert b"VP8L" in ran.data[:40]
    np.testing.assert_array_equal(np.asarray(opened(ran.data)), np.asarray(image))
    assert b"VP8L" in both_ways(tmp_path / "resized", data, "resize 50%").data[:40]
    lossy = both_ways(tmp_path / "lossy", data, "auto_orient", quality=90).data
    assert b"VP8L" not in lossy[:40]
    assert "lossless" in "".join(explain(header_of(data), Recipe((Output(()),)), 1))


def test_lossy_stays_lossy(tmp_path: Path) -> None:
    ran = both_ways(tmp_path, saved(Image.fromarray(scene(3)), "WEBP", quality=90), "auto_orient")
    assert b"VP8L" not in ran.data[:40]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("lossless", [False, True])
def test_an_animation_gives_its_first_frame(lossless: bool, channels: int, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(scene(channels), 5 * i, axis=1)) for i in range(3)]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=lossless, exact=True)
    ran = both_ways(tmp_path, data, format="png")
    expected = np.asarray(opened(data))
    found = np.asarray(opened(ran.data))
    np.testing.assert_array_equal(found[:, :, : expected.shape[2]], expected)
    assert ran.dropped == ("animation",)


def test_a_first_frame_smaller_than_the_canvas_is_clear_around(tmp_path: Path) -> None:
    still = saved(Image.fromarray(scene(3)), "WEBP", lossless=True)
    body = still[12:]
    place = b"".join(n.to_bytes(3, "little") for n in (2, 3, 44, 30, 100)) + b"\0"
    canvas = (59).to_bytes(3, "little") + (49).to_bytes(3, "little")
    parts = [(b"VP8X", b"\2\0\0\0" + canvas), (b"ANIM", bytes(6)), (b"ANMF", place + body)]
    file = b"WEBP" + b"".join(name + struct.pack("<I", len(b)) + b for name, b in parts)
    ran = both_ways(tmp_path, b"RIFF" + struct.pack("<I", len(file)) + file, format="png")
    pixels = np.asarray(opened(ran.data))
    assert pixels.shape == (50, 60, 4)
    np.testing.assert_array_equal(pixels[6:37, 4:49, :3], scene(3))
    assert pixels[:, :, 3].sum() == 255 * 31 * 45


def test_an_orientation_in_xmp_alone_counts(tmp_path: Path) -> None:
    data = saved(Image.fromarray(scene(3)), "WEBP", lossless=True, xmp=ORIENTED)
    ran = both_ways(tmp_path, data, "auto_orient")
    np.testing.assert_array_equal(np.asarray(opened(ran.data)), np.rot90(scene(3), -1))
    assert opened(ran.data).info["xmp"] == ORIENTED.replace(b'"6"', b'"1"')


def test_a_flag_without_its_block_is_no_damage(tmp_path: Path) -> None:
    data = bytearray(saved(Image.fromarray(scene(3)), "WEBP", lossless=True, xmp=b"<x/>"))
    data[20] |= 8  # EXIF
    np.testing.assert_array_equal(np.asarray(opened(both_ways(tmp_path, bytes(data)).data)), scene(3))


def test_a_profile_for_gray_is_said_to_be_dropped(tmp_path: Path) -> None:
    data = saved(Image.fromarray(scene(1)), "PNG", icc_profile=GRAY_PROFILE)
    assert both_ways(tmp_path, data, format="webp").dropped == ("colour profile",)


@pytest.mark.parametrize("target", ["webp", "png", "avif"])
def test_an_extension_of_xmp_is_joined_to_the_packet(target: Any, tmp_path: Path) -> None:
    extension = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        b'xmlns:d="http://example.org/depth/"><rdf:Description rdf:about="" d:Data="%s"/></rdf:RDF></x:xmpmeta>'
    ) % (b"y" * 70_000)
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
        b'xmpNote:HasExtendedXMP="%s"/>'
        b"</rdf:RDF></x:xmpmeta>"
    ) % hashlib.md5(extension).hexdigest().upper().encode()
    jpeg = saved(Image.fromarray(scene(3)), "JPEG")
    ran = both_ways(
        tmp_path, jpegmetadata.insert(jpeg, Metadata(xmp=packet, extended_xmp=extension)), format=target
    )
    assert ran.dropped == ()
    found = opened(ran.data).info["xmp"]
    assert b"HasExtendedXMP" not in found
    described = ElementTree.fromstring(found)[0]
    assert described[1].get("{http://example.org/depth/}Data") == "y" * 70_000
