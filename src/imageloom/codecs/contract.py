"""What a codec is: the contract of the formats, of imageloom itself and of plug-ins."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from imageloom.codecs.bits import Data
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import Metadata
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing


class Codec(Protocol):
    """One format. Call the functions of this module instead of its methods: they convert errors.

    The class of a plug-in also has `magic` and `suffixes`, and may have `versions`, see `_Known`. A codec may have
    `keywords`: the keywords of the texts that its files can hold, if not all; `also_reads`: things that it reads,
    for other formats, but does not write; `always_drops`: things that it finds in files and that no output gets
    (`Metadata.found`); `gray_in_colour`: the numbers of channels of gray pixels that it writes as RGB;
    `lacks`: what its files of certain pixels cannot hold, of what it `carries`; `moves_values`: true if it lays
    out EXIF anew, so that offsets in maker notes become invalid; `only_codes`: true if it states colours by
    profiles and codes of ITU-T H.273 only; `settings`: the names of the fields of `Encoding` that it supports,
    beside the quality; `can_state`: whether its files can state a density, if not each one.
    """

    format: Format
    quality: int
    """Default quality of a lossy encoder, 1 to 100; 0 for lossless formats."""
    encoder_bytes: int
    """Approximate memory of the encoder in bytes per pixel, without the pixels and the file."""
    written: Format
    """Default format of outputs: the same format, or another one if this format can only be read."""
    carries: tuple[Thing, ...]
    """What an output of this format can hold beside its pixels: `Metadata` without these things is dropped."""
    in_process: bool = False
    """The engines `threads` and `serial` may decode it in the driver's process: its decoder is simple, or has been
    fuzzed for years. All other formats are decoded in a sandboxed process on all engines."""

    def header(self, head: Data) -> Header:
        """Parse the header from the first bytes of a file, or from anywhere in it.

        Raises:
            MoreNeeded: the header is longer than the given bytes.
            CorruptImage, UnsupportedImage: the image cannot be decoded.
        """

    def cannot_hold(self, frame: Frame) -> str | None:
        """The reason why such pixels cannot be encoded, or None."""

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        """Decode a file: only its luma if `luma` is set, at 1/scale of its size. Report damage to `damage`."""

    def metadata(self, data: bytes) -> Metadata:
        """The metadata of a file.

        Raises:
            LimitExceeded: a block is too large when it is decompressed.
        """

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = ...) -> bytes:
        """Encode an image to the bytes of a file."""


class Versions(NamedTuple):
    """Versions of a codec's results: raise one when files of the last release would give other pixels or bytes."""

    decoder: int = 0
    encoder: int = 0
