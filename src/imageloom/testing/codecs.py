"""The conformance suite for codecs, as a pytest class:

    from imageloom.testing.codecs import CodecTests

    class TestMine(CodecTests):
        format = "mine"

A codec that only reads overrides `files`, because it cannot encode its own test files.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import ClassVar

import msgspec
import numpy as np
import pytest

from imageloom import codecs, colours
from imageloom.codecs.adapt import Target, for_output
from imageloom.codecs.bits import MoreNeeded, View
from imageloom.codecs.metadata import Density, Metadata, Primaries, Text, things
from imageloom.errors import CorruptImage, ItemError, UnsupportedImage
from imageloom.model import DType, Encoding, Format, Frame, Header, Limits, Pixels
from imageloom.recipes.plan import check_limits

SECONDS = 2.0
"""Maximum processor time for a damaged file."""
BYTES = 512 << 20
"""Maximum memory for a damaged file."""
WIDTH, HEIGHT = 45, 31
_DTYPES: tuple[DType, ...] = ("uint8", "uint16", "float32")
FRAMES = tuple(Frame(WIDTH, HEIGHT, channels, dtype) for dtype in _DTYPES for channels in (1, 2, 3, 4))


def _exif() -> bytes:
    entry = struct.pack("<HHII", 0x010F, 2, 5, 26)
    return b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + b"Loom\0\0"


METADATA = Metadata(
    exif=_exif(),
    xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>',
    icc=colours.built("cicp 12 13", is_gray=False),
    iptc=b"\x1c\x02\x50\0\x04Jane",
    density=Density(300, 300),
    texts=(Text("Copyright", "(c) Jane"),),
)
"""One of each kind of metadata that any image can have, but for stated colours: the profile is what counts."""
ALWAYS = {"density", "colours"}
"""What some formats state in each file."""
COLOURS = Metadata(colours=Primaries((12, 13, 0, 1)))


class CodecTests:
    """The suite. Derive a class from it and run it with pytest."""

    format: ClassVar[Format]
    tolerance: ClassVar[float] = 0.0
    """Mean difference of pixels after a lossy round trip, in 1/255 of the range. 0: the codec is lossless."""
    lossless: ClassVar[bool] = False
    """The codec has a lossy and a lossless encoder, see `Encoding.lossless`."""
    cuts: ClassVar[int] = 24
    """Number of places at which each file is cut off."""
    flips: ClassVar[int] = 60
    """Number of damaged variants of each file."""

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Valid files, with a name for each."""
        for frame in self.frames():
            yield str(frame), self.encoded(scene(frame), Encoding(self.codec.quality))
        yield "metadata", self.encoded(scene(self.frames()[-1]), Encoding(self.codec.quality), METADATA)

    @property
    def codec(self) -> codecs.Codec:
        return codecs.get(self.format)

    def frames(self) -> list[Frame]:
        """The frames that the codec writes; empty for a codec that only reads."""
        if self.codec.written != self.format:
            return []
        return [frame for frame in FRAMES if self.codec.cannot_hold(frame) is None]

    def encoded(self, image: Pixels, encoding: Encoding, metadata: Metadata | None = None) -> bytes:
        data = codecs.encode(self.format, image, encoding, metadata or Metadata())
        assert isinstance(data, bytes)
        return data

    @pytest.fixture(scope="class")
    @classmethod
    def valid(cls, request: pytest.FixtureRequest) -> dict[str, bytes]:
        return dict(request.cls().files())

    def test_files_are_recognized_by_their_bytes(self, valid: dict[str, bytes]) -> None:
        for data in valid.values():
            header = codecs.header_of(data)
            assert header.format == self.format
            assert header.frame.pixels
            assert 1 <= header.orientation <= 8
            assert msgspec.convert(msgspec.to_builtins(header), Header) == header

    def test_suffixes_are_its_own(self) -> None:
        for suffix in codecs.suffixes(self.format):
            assert codecs.format_of(f"image.{suffix.upper()}") == self.format

    def test_header_from_a_prefix(self, valid: dict[str, bytes]) -> None:
        """A prefix of 32 bytes or more gives the same header as the file, or the codec asks for more."""
        for data in valid.values():
            whole = codecs.header_of(data)
            for length in [*range(32, len(data), 1 + len(data) // 24), len(data)]:
                try:
                    found = self.codec.header(data[:length])
                except MoreNeeded:
                    assert length < len(data)
                except (CorruptImage, UnsupportedImage) as error:
                    raise AssertionError(f"the first {length} bytes: {error}") from None
                else:
                    assert found == whole

    def test_header_from_anywhere_in_a_file(self, valid: dict[str, bytes]) -> None:
        for data in valid.values():
            view = View(lambda at, length, data=data: data[at : at + length], len(data), data[:16])  # type: ignore[misc]
            assert self.codec.header(view) == codecs.header_of(data)

    def test_decoded_pixels_have_the_frame_of_the_header(self, valid: dict[str, bytes]) -> None:
        for data in valid.values():
            header = codecs.header_of(data)
            first, again = codecs.decode(data, header), codecs.decode(data, header)
            assert Frame.of(first) == header.frame
            np.testing.assert_array_equal(first, again)
            for scale in (2, 4, 8) if header.scalable else ():
                assert codecs.decode(data, header, scale=scale).ndim == first.ndim

    def test_round_trip(self) -> None:
        for frame in self.frames():
            image = scene(frame)
            kept = image.copy()
            data = self.encoded(image, Encoding(self.codec.quality))
            np.testing.assert_array_equal(image, kept)
            assert self.difference(image, codecs.decode(data, codecs.header_of(data))) <= self.tolerance
            if self.lossless:
                data = self.encoded(image, Encoding(self.codec.quality, lossless=True))
                header = codecs.header_of(data)
                assert header.lossless
                assert self.difference(image, codecs.decode(data, header)) == 0

    def difference(self, image: Pixels, found: Pixels) -> float:
        """Mean difference in 1/255 of the range. A format without gray, or alpha of 255, may return colours."""
        top = 1.0 if image.dtype == np.float32 else float(np.iinfo(image.dtype).max)
        assert found.dtype == image.dtype
        assert found.shape[:2] == image.shape[:2]
        wanted = image if image.ndim == 3 else image[:, :, None]
        found = found if found.ndim == 3 else found[:, :, None]
        if found.shape[2] != wanted.shape[2]:
            assert found.shape[2] == wanted.shape[2] + 2
            wanted = np.concatenate([wanted[:, :, :1]] * 3 + [wanted[:, :, 1:]], axis=2)
        return float(np.abs(wanted.astype(float) - found.astype(float)).mean() * 255 / top)

    def test_refuses_other_frames_with_a_reason(self) -> None:
        for frame in FRAMES:
            reason = self.codec.cannot_hold(frame)
            assert reason is None or len(reason) > 10
        if self.codec.written != self.format:
            assert all(self.codec.cannot_hold(frame) for frame in FRAMES)
            with pytest.raises(UnsupportedImage):
                codecs.encode(self.format, scene(FRAMES[0]), Encoding(90))

    def test_encoding_is_deterministic(self) -> None:
        for frame in self.frames():
            first, again = (self.encoded(scene(frame), Encoding(80), METADATA) for _ in range(2))
            assert first == again

    @pytest.mark.parametrize("metadata", [METADATA, COLOURS], ids=["metadata", "colours"])
    def test_metadata_is_carried_as_declared(self, metadata: Metadata) -> None:
        """What `carries` names is written and read again; nothing else is in the file."""
        frame = Frame(WIDTH, HEIGHT, 3)
        if frame not in self.frames():
            return
        keywords = getattr(self.codec, "keywords", ())
        carried = for_output(metadata, Target(frame, self.codec.carries, False, keywords=keywords))
        wanted = things(carried.metadata) & set(self.codec.carries)
        assert things(metadata) - wanted <= carried.dropped <= things(metadata)
        data = self.encoded(scene(frame), Encoding(self.codec.quality), carried.metadata)
        found = codecs.read_metadata(data, self.format)
        held, asked = (
            {"text" if thing == "comment" else thing for thing in s} for s in (things(found), wanted)
        )
        assert asked - held <= ({"text"} if "EXIF" in held else set())  # TIFF holds texts in tags of EXIF
        assert held <= asked | ALWAYS
        for thing, field in (("XMP", "xmp"), ("colour profile", "icc"), ("colours", "colours")):
            if thing in wanted:
                assert getattr(found, field) == getattr(metadata, field)
        if "EXIF" in wanted:
            assert b"Loom" in found.exif
        plain = self.encoded(scene(frame), Encoding(self.codec.quality))
        assert things(codecs.read_metadata(plain, self.format)) <= ALWAYS
        pixels, others = (codecs.decode(file, codecs.header_of(file)) for file in (plain, data))
        assert self.difference(pixels, others) <= self.tolerance, "the pixels depend on the metadata"

    def test_metadata_of_a_file_on_disk(self, valid: dict[str, bytes], tmp_path: Path) -> None:
        """Large files are not read into memory, but mapped."""
        for data in valid.values():
            (tmp_path / "file").write_bytes(data)
            found = codecs.metadata_of(str(tmp_path / "file"), self.format)
            assert found == codecs.read_metadata(data, self.format)

    def test_damaged_files_are_refused_by_name(self, valid: dict[str, bytes]) -> None:
        """A cut or changed file is decoded or refused, within 2 s and 512 MB."""
        for name, data in valid.items():
            for change, damaged in self.damaged(data):
                began, before = time.process_time(), _reset_peak()
                try:
                    self.attempt(damaged)
                except ItemError:
                    pass
                except Exception as error:
                    raise AssertionError(f"{name}, {change}: {type(error).__name__}: {error}") from error
                assert time.process_time() - began < SECONDS, f"{name}, {change}"
                assert _peak() - before < BYTES, f"{name}, {change}"

    def damaged(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        step = 1 + len(data) // self.cuts
        for at in range(1, len(data), step):
            yield f"cut at {at}", data[:at]
        random = Random(len(data))
        for number in range(self.flips):
            changed = bytearray(data)
            for _ in range(1 + number % 4):
                at = random.randrange(min(len(data), 400) if number % 2 else len(data))
                changed[at] = random.choice((0, 1, 0x7F, 0xFF, changed[at] ^ 0x80, random.randrange(256)))
            yield f"change {number}", bytes(changed)

    def attempt(self, data: bytes) -> None:
        """Read a file as a worker does."""
        header = codecs.header_of(data)
        if header.format == self.format:
            check_limits(header, Limits(max_pixels=4_000_000), len(data))
            codecs.read_metadata(data, self.format)
            codecs.decode(data, header)

    @pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
    def test_no_file_stays_open(self, valid: dict[str, bytes]) -> None:
        self._read_all(valid)
        before = os.listdir("/proc/self/fd")
        self._read_all(valid)
        assert os.listdir("/proc/self/fd") == before

    def _read_all(self, valid: dict[str, bytes]) -> None:
        for data in valid.values():
            for part in (data, data[: len(data) // 2]):
                with suppress(ItemError):
                    self.attempt(part)


def scene(frame: Frame) -> Pixels:
    """An image that is smooth, and different in each channel and each orientation."""
    y, x = np.mgrid[0 : frame.height, 0 : frame.width].astype(np.float64)
    planes = [x / (frame.width - 1), y / (frame.height - 1), (x + y) / (frame.width + frame.height - 2)]
    planes.append(1 - planes[0] * planes[1])
    chosen = {1: [2], 2: [2, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[frame.channels]
    image = np.stack([planes[index] for index in chosen], axis=2)
    if frame.dtype == "float32":
        made: Pixels = image.astype(np.float32)
    else:
        made = np.rint(image * np.iinfo(frame.dtype).max).astype(frame.dtype)
    return made[:, :, 0] if frame.channels == 1 else made


def _reset_peak() -> int:
    """Forget the peak of the resident memory. Returns the resident memory in bytes; 0 if it is not known."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _memory("VmRSS")


def _peak() -> int:
    return _memory("VmHWM") if sys.platform == "linux" else 0


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))
