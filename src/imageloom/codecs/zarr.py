"""Zarr version 3, only written: an image is a folder, and each chunk is a file in it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from imageloom.codecs.bits import Data
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.errors import MissingExtra, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

if TYPE_CHECKING:
    from imageloom.codecs.piecewise.ordered import Encoder


class Zarr:
    """The codec. Zarr arrays cannot be read.

    Raises:
        MissingExtra: the library is not installed.
    """

    format: Format = "zarr"
    quality = 0
    encoder_bytes = 0
    written: Format = "zarr"
    carries: tuple[Thing, ...] = ()

    def __init__(self) -> None:
        if find_spec("zarr") is None:
            raise MissingExtra("Zarr", "zarr")

    def header(self, head: Data) -> Header:
        raise UnsupportedImage("Zarr can be written but not read")

    def cannot_hold(self, frame: Frame) -> str | None:
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        raise UnsupportedImage("Zarr can be written but not read")

    def metadata(self, data: bytes) -> Metadata:
        return NO_METADATA

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        raise UnsupportedImage("a Zarr array is a folder, and cannot be encoded as one file")

    def files(self, image: Pixels) -> dict[str, bytes]:
        """Encode an image of any size: the files of the folder by their relative paths."""
        from imageloom.codecs.piecewise import zarr  # other formats must not wait for the import

        return zarr.Encoder(Frame.of(image)).files(image)

    def in_pieces(self, frame: Frame, encoding: Encoding, metadata: Metadata = NO_METADATA) -> Encoder:
        """An encoder that encodes an image chunk by chunk, to the same files."""
        from imageloom.codecs.piecewise import zarr

        return zarr.Encoder(frame)
