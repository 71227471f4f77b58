"""Images: their shape, their boxes, and what is known of a file before it is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
from msgspec.structs import replace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[Any]
else:
    Pixels = Any
"""An image: an array (height, width) for gray, or (height, width, channels) for gray+alpha, RGB and RGBA.

More channels follow if the frame has extra samples. uint8 and uint16 use the full range of the type. White is 1 in
float32; values outside 0 to 1 are allowed, and refused by operators that need this range.
"""

DType = Literal["uint8", "uint16", "float32"]
"""The type of a sample: integers fill their range, floating point is 0 to 1 and may lie outside of it."""
Format = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
"""The name of a codec, such as `jpeg`."""
Thing = Literal[
    "16 bits",
    "alpha",
    "animation",
    "attachments",
    "auxiliary images",
    "CMYK",
    "colour profile",
    "colours",
    "comment",
    "content credentials",
    "damaged metadata",
    "density",
    "depth map",
    "display hints",
    "EXIF",
    "extended XMP",
    "extra samples",
    "gain map",
    "georeference",
    "HDR",
    "IPTC",
    "layers",
    "mask",
    "pages",
    "Photoshop resources",
    "private metadata",
    "regions",
    "text",
    "thumbnail",
    "video",
    "XMP",
]
"""What a file can hold beside plain pixels: each is kept, adapted to the output, or dropped and reported."""
THINGS: tuple[Thing, ...] = get_args(Thing)
COPIES: frozenset[Thing] = frozenset({"thumbnail"})
"""Small copies of the old picture: no output can be expected to keep them."""
Subsampling = Literal["444", "440", "422", "420", "411"]
"""The chroma subsampling of a lossy encoder, as J:a:b without the colons."""


class Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base class of these data types: immutable, comparable and serializable."""


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not plain data."""


LARGE = 16_000_000
"""JPEG, PNG and TIFF outputs with more pixels are encoded piece by piece, with or without tiles."""


class Frame(Plain, frozen=True):
    """The shape of an image between two steps."""

    width: int
    """In pixels."""
    height: int
    """In pixels."""
    channels: int
    """1 gray, 2 gray and alpha, 3 RGB, 4 RGBA; and `extra` more."""
    dtype: DType = "uint8"
    """The type of each sample."""
    extra: int = 0
    """The number of extra samples: the last channels, whose meaning is not known, neither colours nor alpha."""

    @property
    def without_extra(self) -> Frame:
        """The frame of the colours and alpha only."""
        return replace(self, channels=self.channels - self.extra, extra=0) if self.extra else self

    @property
    def pixels(self) -> int:
        """Number of pixels: width times height."""
        return self.width * self.height

    @property
    def bytes(self) -> int:
        """Size of the decoded pixels in bytes."""
        return self.pixels * self.channels * {"uint8": 1, "uint16": 2, "float32": 4}[self.dtype]

    @property
    def is_large(self) -> bool:
        """Whether it has so many pixels that its outputs are encoded piece by piece."""
        return self.pixels > LARGE

    def is_as_large_as(self, other: Frame) -> bool:
        """Whether width and height are those of the other frame."""
        return (self.width, self.height) == (other.width, other.height)

    @classmethod
    def of(cls, image: Pixels) -> Frame:
        """The frame of an image in memory."""
        channels = 1 if image.ndim == 2 else image.shape[2]
        return cls(image.shape[1], image.shape[0], channels, image.dtype.name)  # type: ignore[arg-type]

    def __str__(self) -> str:
        kinds = {1: "gray", 2: "gray+alpha", 3: "RGB", 4: "RGBA"}
        shown = self.channels - self.extra
        kind = kinds.get(shown, f"{shown} channels") + (f"+{self.extra} extra" if self.extra else "")
        return f"{self.width}x{self.height} {kind} {self.dtype}"


class Box(Plain, frozen=True):
    """A half-open rectangle of pixels: it includes x0 and y0, but not x1 and y1."""

    x0: int
    """The first column, in pixels from the left edge of the image."""
    y0: int
    """The first row, in pixels from the top edge of the image."""
    x1: int
    """The column behind the last one."""
    y1: int
    """The row below the last one."""

    @classmethod
    def of(cls, frame: Frame) -> Box:
        """The box of all pixels of a frame."""
        return cls(0, 0, frame.width, frame.height)

    @property
    def width(self) -> int:
        """In pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """In pixels."""
        return self.y1 - self.y0

    def moved(self, x: int, y: int) -> Box:
        """This box, moved by x pixels to the right and y pixels down."""
        return Box(self.x0 + x, self.y0 + y, self.x1 + x, self.y1 + y)

    def grown(self, pixels: int) -> Box:
        """This box, larger by so many pixels on each side."""
        return Box(self.x0 - pixels, self.y0 - pixels, self.x1 + pixels, self.y1 + pixels)

    def aligned(self, step: int) -> Box:
        """The smallest box around this one whose edges are multiples of `step`."""
        left, top = self.x0 // step * step, self.y0 // step * step
        return Box(left, top, -(-self.x1 // step) * step, -(-self.y1 // step) * step)

    def within(self, other: Box) -> Box:
        """The intersection with the other box."""
        start = max(self.x0, other.x0), max(self.y0, other.y0)
        return Box(*start, min(self.x1, other.x1), min(self.y1, other.y1))

    def slices(self, outer: Box) -> tuple[slice, slice]:
        """The rows and columns of this box in an array that has the pixels of `outer`."""
        x, y = outer.x0, outer.y0
        return slice(self.y0 - y, self.y1 - y), slice(self.x0 - x, self.x1 - x)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}+{self.x0}+{self.y0}"


class Tile(Plain, frozen=True):
    """A part of an image that is computed independently."""

    write: Box
    """The box of the output that the tile computes."""
    read: Box
    """The box of the input that it needs for that: `write` and the halo."""


def is_large(image: Pixels) -> bool:
    """The same as `Frame.of(image).is_large`, but faster."""
    return bool(image.shape[0] * image.shape[1] > LARGE)


class Header(Plain, frozen=True):
    """What is known about an image before it is decoded."""

    format: Format
    frame: Frame
    """The decoded image, before the orientation is applied."""
    orientation: int = 1
    """The EXIF orientation, 1 to 8: how to rotate and mirror the stored pixels for display."""
    scalable: bool = False
    """The codec can decode directly to 1/2, 1/4 and 1/8 of the size (JPEG)."""
    scales: tuple[int, ...] = ()
    """Divisors of the size at which the file has smaller copies of the image (pyramids in TIFF), ascending."""
    buffered: int = 0
    """Bytes that the decoder needs in addition to the pixels (coefficients of a progressive JPEG)."""
    lossless: bool = False
    """The file's own format has lossy files too, and this one is lossless (WebP, AVIF)."""
    subsampling: Subsampling | None = None
    """The chroma subsampling of a lossy file; None if unknown."""
    colours: str = ""
    """What the numbers of the pixels mean, as a text of `colours`; empty: sRGB, or not stated."""
    stored: str = ""
    """The colours of the stored pixels, if the decoder converts them to sRGB: CMYK, CIELab or ICCLab."""
    page: int = 0
    """Number of the page in the file, from 0 (TIFF, PDF, HEIF, animations)."""
    pages: int = 1
    """Number of pages of the file."""
    density: int = 0
    """Pixels per inch at which a document is drawn; 0 for the codec's default (PDF, SVG)."""
    facts: tuple[tuple[str, str], ...] = ()
    """Names and values of the fields of the item that steps of the recipe need, such as ("stem", "IMG_1")."""
