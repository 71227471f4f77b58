"""JPEG with libjpeg-turbo, through simplejpeg. It reports damaged files, and can decode at a smaller size."""

from __future__ import annotations

import importlib
from functools import lru_cache
from io import BytesIO
from mmap import mmap
from struct import Struct
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from imageloom.codecs import segments
from imageloom.codecs.bits import Data, MoreNeeded, View, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Density, Metadata
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing, is_large

if TYPE_CHECKING:
    from imageloom.codecs.jpegmetadata import Orientation
    from imageloom.codecs.piecewise.ordered import FileEncoder

Buffer = bytes | mmap
_FRAME = Struct(">BHHB")
_PROGRESSIVE = {0xC2, 0xCA}
_PIECE = 1 << 20
_FRAMES = {*segments.SEQUENTIAL, *_PROGRESSIVE}
_REFUSED = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical",
    0xCB: "arithmetic-coded lossless",
    0xCD: "hierarchical",
    0xCE: "hierarchical",
    0xCF: "hierarchical",
}


@lru_cache(maxsize=1)
def _library() -> ModuleType:
    return importlib.import_module("simplejpeg")


class Jpeg:
    format: Format = "jpeg"
    quality = 85
    encoder_bytes = 0
    written: Format = "jpeg"
    in_process = True
    settings = ("progressive", "subsampling")
    carries: tuple[Thing, ...] = (
        "EXIF",
        "IPTC",
        "Photoshop resources",
        "XMP",
        "colour profile",
        "comment",
        "density",
        "extended XMP",
        "gain map",
        "video",
    )
    always_drops: tuple[Thing, ...] = (
        "content credentials",
        "damaged metadata",
        "depth map",
        "pages",
        "private metadata",
        "thumbnail",
    )

    def header(self, head: Data) -> Header:
        """Parse the segments up to the first scan, which says whether more scans follow."""
        turned: Orientation | None = None
        progressive = False
        profile: list[bytes] = []
        frame: Frame | None = None
        components = 0
        sampling = None
        for marker, start, end in segments.walk(head, tables=False):
            if marker in _FRAMES:
                described = head[start : start + segments.FRAME]
                frame, components = _frame(described)
                sampling = segments.subsampling(described)
                progressive = marker in _PROGRESSIVE
            elif marker in _REFUSED:
                raise UnsupportedImage(f"{_REFUSED[marker]} JPEG is not supported")
            elif marker == segments.APP1:
                from imageloom.codecs.jpegmetadata import Orientation  # plain photos do not need it

                turned = turned or Orientation()
                turned.add(head[start:end])
            elif marker == segments.APP2 and head[start : start + len(segments.ICC)] == segments.ICC:
                profile.append(head[start + len(segments.ICC) : end])
            elif marker == segments.SOS and frame is not None:
                if not frame.height:
                    frame = replace(frame, height=_later_height(head, end))
                # The coefficients of the whole image are kept until the last scan.
                several = progressive or number(head, start, 1) < components
                held = 2 * frame.bytes if several else 0
                is_cmyk = components == 4
                held += 4 * frame.pixels * is_cmyk
                return Header(
                    "jpeg",
                    frame,
                    orientation=turned.value if turned else 1,
                    scalable=not is_cmyk,
                    buffered=held,
                    subsampling=sampling,
                    stored="CMYK" if is_cmyk else "",
                    colours=_stated(profile, turned, frame.channels) if profile or turned else "",
                )
        raise CorruptImage("the JPEG has no frame header before its first scan")

    def can_state(self, density: Density) -> bool:
        from imageloom.codecs import jpegmetadata  # imported late: plain photos do not need it

        return bool(jpegmetadata.resolution(density))

    def cannot_hold(self, frame: Frame) -> str | None:
        if frame.dtype != "uint8":
            return f"JPEG supports 8 bits, not {frame.dtype}: choose --format png"
        if frame.channels in (2, 4):
            return "JPEG does not support alpha: choose --format png"
        if max(frame.width, frame.height) > 65_500:
            return f"JPEG supports at most 65500 pixels per side, not {frame.width}x{frame.height}"
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        if header.buffered:
            segments.check_scans(data)
        width, height = -(-header.frame.width // scale), -(-header.frame.height // scale)
        is_cmyk = bool(header.stored)
        decoder = _Decoder(header.frame, luma or header.frame.channels == 1, is_cmyk, scale)
        try:
            image = decoder.strict(data)
        except ValueError:
            image = self._repaired(data, decoder, damage)
        if image.shape[:2] != (height, width):
            raise CorruptImage(f"the JPEG decodes to {image.shape[1]}x{image.shape[0]}, not {width}x{height}")
        if is_cmyk:
            from imageloom.codecs.jpegmetadata import stored_profile
            from imageloom.colours.inks import cmyk_to_srgb  # few files have inks

            # Programs store the inks inverted, as Adobe's do.
            return cmyk_to_srgb(255 - image, stored_profile(data))
        return image.reshape(height, width) if decoder.gray else image

    def _repaired(self, data: bytes, decoder: _Decoder, damage: DamageLog) -> Pixels:
        from imageloom.codecs import repair  # few files need it

        try:
            probe = _Decoder(decoder.frame, not decoder.is_cmyk, decoder.is_cmyk, scale=8)
            decoders = repair.Decoders(
                decoder.strict, probe.strict, decoder.lenient, decoder.other, decoder.frame.height
            )
            return repair.decode(data, decoders, damage)
        except (ValueError, OSError, SyntaxError) as error:
            raise CorruptImage(f"the JPEG cannot be decoded: {error}") from None

    def metadata(self, data: bytes) -> Metadata:
        if segments.is_bare(data):
            return NO_METADATA
        from imageloom.codecs import jpegmetadata  # plain photos do not need it

        return jpegmetadata.read(data)

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        if encoding.progressive:
            data = _progressive(image, encoding)
        elif is_large(image):
            return self.in_pieces(Frame.of(image), encoding, metadata).encode(image)
        else:
            data = _baseline(image, encoding)
        if metadata is NO_METADATA:
            return data
        from imageloom.codecs import jpegmetadata  # plain photos do not need it

        return jpegmetadata.insert(data, metadata)

    def in_pieces(self, frame: Frame, encoding: Encoding, metadata: Metadata = NO_METADATA) -> FileEncoder:
        """An encoder that encodes a large image strip by strip, to the same bytes as `encode`."""
        from imageloom.codecs import jpegmetadata
        from imageloom.codecs.piecewise import jpeg  # small images must not wait for the import

        return jpeg.Encoder(
            frame, encoding.quality, jpegmetadata.around(metadata), encoding.subsampling or "420"
        )


def _baseline(image: Pixels, encoding: Encoding) -> bytes:
    gray = image.ndim == 2
    data: bytes = _library().encode_jpeg(
        np.ascontiguousarray(image[:, :, None] if gray else image),
        encoding.quality,
        colorspace="GRAY" if gray else "RGB",
        colorsubsampling="Gray" if gray else encoding.subsampling or "420",
    )
    return data


def _progressive(image: Pixels, encoding: Encoding) -> bytes:
    """In several scans, with Huffman tables of the image's own, by the libjpeg-turbo in OpenCV."""
    import cv2  # simplejpeg has no such option

    sampling = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{encoding.subsampling or '420'}")
    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, encoding.quality),
        *(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        *(cv2.IMWRITE_JPEG_OPTIMIZE, 1),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling),
    ]
    ordered = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", ordered, options)[1].tobytes()


def check_whole(data: Buffer, frame: Frame) -> None:
    """Check all entropy-coded data of a file, by a decode at an eighth of its size.

    Raises:
        CorruptImage: it is damaged.
    """
    try:
        _Decoder(frame, gray=True, is_cmyk=False, scale=8).strict(data)
    except ValueError as error:
        raise CorruptImage(f"the JPEG cannot be decoded: {error}") from None


class _Decoder:
    """Decodes files of one frame at 1/scale of their size.

    Args:
        gray: decode only the luma.
        is_cmyk: the file has inks, which are decoded as they are stored.
    """

    def __init__(self, frame: Frame, gray: bool, is_cmyk: bool, scale: int) -> None:
        self.frame = frame
        self.gray = gray
        self.is_cmyk = is_cmyk
        self._scale = scale

    def strict(self, data: Buffer) -> Pixels:
        """Decode a file without any damage.

        Raises:
            ValueError: there is damage; the message is that of libjpeg.
        """
        return self._decode(data, True)

    def lenient(self, data: bytes) -> Pixels:
        """Decode a file as far as possible."""
        return self._decode(data, False)

    def _decode(self, data: Buffer, strict: bool) -> Pixels:
        frame, scale = self.frame, self._scale
        try:
            size = _library().decode_jpeg_header(data, strict=strict)[:2]
        except KeyError:
            raise ValueError("the library has no name for this subsampling level") from None
        if size != (frame.height, frame.width):
            raise CorruptImage(f"the JPEG has {size[1]}x{size[0]} pixels, but its header says otherwise")
        image: Pixels = _library().decode_jpeg(
            data,
            colorspace="CMYK" if self.is_cmyk else "GRAY" if self.gray else "RGB",
            min_width=-(-frame.width // scale) if scale > 1 else 0,
            min_height=-(-frame.height // scale) if scale > 1 else 0,
            min_factor=1,
            strict=strict,
        )
        return image

    def other(self, data: bytes) -> Pixels:
        """Decode with Pillow, which knows all samplings. Damage is not reported."""
        from PIL import Image

        with Image.open(BytesIO(data), formats=["JPEG"]) as image:
            size = [max(1, side // self._scale) for side in image.size]
            if self.is_cmyk:
                return 255 - np.asarray(image)  # Pillow inverts them
            image.draft("L" if self.gray else None, (size[0], size[1]))
            return np.asarray(image.convert("L" if self.gray else "RGB"))


def _later_height(head: Data, at: int) -> int:
    """The number of lines that is defined behind the first scan (ITU-T T.81, B.2.5)."""
    for piece in range(at, len(head), _PIECE):
        coded = head[piece : piece + _PIECE + 6]
        if (found := segments.BEHIND_CODED.search(coded)) and coded[found.start() + 1] == segments.DNL:
            return number(head, piece + found.start() + 4, 2)
        if found:
            return 0
    if not isinstance(head, View):
        raise MoreNeeded
    return 0


def _frame(described: bytes) -> tuple[Frame, int]:
    """Parse the body of a frame header (ITU-T T.81, B.2.2): the frame, and the number of components."""
    if len(described) < 6:
        raise MoreNeeded
    bits, height, width, components = _FRAME.unpack_from(described)
    if bits != 8:
        raise UnsupportedImage(f"JPEG with {bits} bits is not supported")
    if components not in (1, 3, 4):
        raise UnsupportedImage(f"{components}-component JPEG is not supported")
    return Frame(width, height, min(components, 3)), components  # CMYK is decoded to RGB


def _stated(profile: list[bytes], turned: Orientation | None, channels: int) -> str:
    """What a file states of its colours, as a text of `colours`."""
    from imageloom.codecs.jpegmetadata import stated  # plain photos do not need it

    return stated(profile, turned.exif if turned else b"", channels)
