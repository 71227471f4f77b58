"""One image: opened from a file, made of an array or of Pillow's image, processed, and saved.

An image is decoded when its pixels are needed. Steps are planned together with the decoder and the encoder,
by the same functions that workers use: so `open(path).apply(pipeline).save(out)` writes the bytes that
`imageloom run` writes.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
from msgspec.structs import replace

from imageloom import codecs, operators
from imageloom.codecs import interop
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.driver.validation import validated
from imageloom.errors import UsageError
from imageloom.interface import files
from imageloom.interface.arguments import format_of, plain
from imageloom.interface.making import Origin, blamed
from imageloom.model import (
    Chroma,
    Colors,
    DType,
    Format,
    Frame,
    GainMap,
    Keep,
    Plain,
    Recipe,
    Step,
    Thing,
)
from imageloom.recipes.pipeline import Pipeline
from imageloom.worker import items

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray
    from PIL.Image import Image as PillowImage

    Array = NDArray[np.uint8 | np.uint16 | np.float32]
else:
    Array = Any

SHOWN = 800
"""Longer side of an image in a notebook, in pixels."""
Mode = Literal["gray", "gray+alpha", "RGB", "RGBA"]
_MODES: dict[int, Mode] = {1: "gray", 2: "gray+alpha", 3: "RGB", 4: "RGBA"}


class Writable(Protocol):
    """A binary file that is open for writing."""

    def write(self, data: bytes, /) -> object: ...


class Saved(Plain, frozen=True):
    """What `Image.save` has written."""

    path: str
    """The path; empty if it was written to a file object."""
    format: Format
    """The format that was written."""
    size: int
    """In bytes."""
    dropped: tuple[Thing, ...] = ()
    """What the image has and the file lacks, because its format cannot hold it."""
    warnings: tuple[str, ...] = ()
    """Damage of the image's own file that did not prevent its decoding."""


class Image:
    """One image. It is immutable: `apply` and pipelines return a new one. `imageloom.open` and `from_array`
    make one.

    The pixels are upright: the EXIF orientation is applied. A file is decoded when `pixels`, `save` or the
    like needs it; width, height, mode and format are known without that. The image keeps its file's bytes in
    memory.
    """

    __slots__ = ("__weakref__", "_made", "_metadata", "_origin", "_plan", "_recipe", "_steps")

    def __init__(self, origin: Origin, steps: tuple[Step, ...] = ()) -> None:
        if not isinstance(origin, Origin):
            raise UsageError("use imageloom.open, Image.from_array or Image.from_pil to make an Image")
        self._origin = origin
        self._steps = steps
        self._made: tuple[object, items.Chunk] | None = None
        self._metadata: Metadata | None = None
        self._recipe = origin.recipe_to_show(steps)
        self._plan = origin.plan(self._recipe).outputs[0]

    @classmethod
    def from_array(cls, pixels: NDArray[Any], *, metadata: Metadata = NO_METADATA) -> Image:
        """An image with these pixels. They are copied.

        Args:
            pixels: gray (height, width), or gray+alpha, RGB or RGBA (height, width, 2 to 4). uint8 and uint16
                use the full range of the type; white is 1 in float32.
            metadata: EXIF, XMP, colour profile (`icc`) and the like, which outputs keep if their format can
                hold them.

        Raises:
            UsageError: it is no such array.
        """
        given = interop.array_of(pixels, "pixels")
        if not isinstance(metadata, Metadata):
            raise UsageError(f"metadata = {metadata!r}: it must be a Metadata")
        validated(metadata)
        return cls(Origin.of_pixels(given, metadata))

    @classmethod
    def from_pil(cls, image: PillowImage) -> Image:
        """An image with the upright pixels of an image of Pillow, its EXIF and its colour profile.

        Raises:
            UsageError: it is no image of Pillow, or no pixels of imageloom can have its mode, such as CMYK.
        """
        if not interop.is_pil(image):
            raise UsageError(f"image = {image!r}: it must be an image of Pillow")
        pixels, metadata = interop.from_pil(image)
        return cls(Origin.of_pixels(pixels, metadata))

    # What it is

    @property
    def pixels(self) -> Array:
        """The pixels: gray (height, width), or gray+alpha, RGB or RGBA (height, width, 2 to 4), and more
        channels if a TIFF has extra samples. uint8 and uint16 use the full range of the type; white is 1 in
        float32. The array is read-only: `.copy()` makes one that you can change.

        Raises:
            ItemError: the file cannot be decoded, or an operator failed.
        """
        with blamed(self._origin.name):
            pixels = self._chunk(self._recipe).pixels[0].view()
        pixels.flags.writeable = False
        return pixels

    @property
    def width(self) -> int:
        """In pixels."""
        return self._frame.width

    @property
    def height(self) -> int:
        """In pixels."""
        return self._frame.height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as in Pillow."""
        return self.width, self.height

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array of pixels."""
        frame = self._frame
        return (frame.height, frame.width) + ((frame.channels,) if frame.channels > 1 else ())

    @property
    def dtype(self) -> DType:
        """Name of the type of the pixels' values: uint8, uint16 or float32."""
        return self._frame.dtype

    @property
    def mode(self) -> Mode:
        """gray, gray+alpha, RGB or RGBA: the first channels. `extra` more follow."""
        return _MODES[self._frame.without_extra.channels]

    @property
    def extra(self) -> int:
        """Number of extra samples: the last channels, whose meaning is not known, neither colours nor
        alpha."""
        return self._frame.extra

    @property
    def format(self) -> Format | None:
        """The format of the file that the image comes from; None if it comes from an array."""
        return None if self._origin.pixels is not None else self._origin.header.format

    @property
    def page(self) -> int:
        """Number of the page in its file, from 1."""
        return self._origin.header.page + 1

    @property
    def pages(self) -> int:
        """Number of pages of its file."""
        return self._origin.header.pages

    @property
    def pipeline(self) -> Pipeline:
        """The steps that are applied to the file or the array."""
        return Pipeline(self._steps)

    @property
    def metadata(self) -> Metadata:
        """EXIF, XMP, colour profile and the like, true of these pixels: for example without an orientation.

        Raises:
            ItemError: the file's metadata is damaged.
        """
        if self._metadata is None:
            with blamed(self._origin.name):
                self._metadata = self._plan.carried(self._origin.stored_metadata()).metadata
        return self._metadata

    @property
    def profile(self) -> bytes:
        """The ICC colour profile; empty if there is none, which means sRGB if `colours` is empty too."""
        return self.metadata.icc

    @property
    def colours(self) -> str:
        """What the numbers of the pixels mean, as the file states it; empty: sRGB, or not stated."""
        return "" if self._plan.converted else self._origin.header.colours

    @property
    def warnings(self) -> tuple[str, ...]:
        """Damage of the file that did not prevent its decoding. The image is decoded for that.

        Raises:
            ItemError: the file cannot be decoded, or an operator failed.
        """
        with blamed(self._origin.name):
            return self._chunk(self._recipe).warnings

    # What can be done with it

    def apply(self, pipeline: Pipeline | Step | str) -> Image:
        """The image after more steps: the same as `pipeline(image)`.

        Raises:
            PipelineError: it is no pipeline, an operator is unknown, or a parameter is invalid.
            OperatorRefused: a step does not accept its input.
        """
        if isinstance(pipeline, (str, Step)):
            pipeline = Pipeline([pipeline])
        if not isinstance(pipeline, Pipeline):
            raise UsageError(
                f"pipeline = {pipeline!r}: it must be a text such as 'resize 50%', or a Pipeline"
            )
        return Image(self._origin, (*self._steps, *pipeline.steps))

    __imageloom_apply__ = apply

    def save(
        self,
        target: str | os.PathLike[str] | Writable,
        *,
        format: Format | None = None,
        quality: int | None = None,
        subsampling: Chroma | None = None,
        metadata: Keep = "keep",
        colors: Colors = "keep",
        gain_map: GainMap = "keep",
    ) -> Saved:
        """Write the image to a local file, or to an open binary file. A file appears complete, or not at all.

        Args:
            target: path of the file; an existing one is replaced. Or an object with a method `write`.
            format: None: that of the path's suffix; for an open file, the format of the image's own file.
            quality: 1 to 100, for lossy formats; None: the format's default.
            subsampling: chroma subsampling of JPEG and HEIF; `keep`: that of the image's file; None: 420.
            metadata: `keep` what the format can hold and report the rest in the result, raise an error for
                the rest (`strict`), or write none (`strip`).
            colors: keep the colours (`keep`), or convert them to sRGB (`srgb`).
            gain_map: process the gain map of an Ultra HDR photo along (`keep`), or drop it (`drop`).

        Raises:
            UsageError: an argument is invalid, or the format is not known from the path.
            UnsupportedImage: the format cannot hold these pixels.
            MetadataLost: `metadata` is `strict`, and the format cannot hold something.
            ItemError: the file cannot be decoded, or an operator failed.
            StorageError: the file cannot be written.
            MissingExtra: the library for the format is not installed.
        """
        chosen = format_of(format)
        path = "" if hasattr(target, "write") else files.path_of(target)
        if path and chosen != (stated := codecs.format_of(os.path.basename(path))):
            if stated and chosen:
                raise UsageError(
                    f"format = {format!r}: but the name {os.path.basename(path)!r} says {stated}"
                )
            chosen = chosen or stated
        encoded, saved = self._encode(path, chosen, quality, subsampling, metadata, colors, gain_map)
        if path:
            files.write(path, encoded)
            return saved
        if not isinstance(encoded, bytes):
            raise UsageError(f"an image in the format {saved.format} is a folder: give a path")
        files.write_to(target, encoded)
        return saved

    def encode(
        self,
        format: Format | None = None,
        *,
        quality: int | None = None,
        subsampling: Chroma | None = None,
        metadata: Keep = "keep",
        colors: Colors = "keep",
        gain_map: GainMap = "keep",
    ) -> bytes:
        """The bytes of the file that `save` writes. The arguments and errors are those of `save`."""
        chosen = format_of(format)
        encoded, saved = self._encode("", chosen, quality, subsampling, metadata, colors, gain_map)
        if not isinstance(encoded, bytes):
            raise UsageError(f"an image in the format {saved.format} is a folder: use save")
        return encoded

    def to_pil(self) -> PillowImage:
        """The image as an image of Pillow, with its colour profile.

        Raises:
            UsageError: Pillow has no mode for such pixels: colours with more than 8 bits, or extra samples.
            ItemError: the file cannot be decoded, or an operator failed.
        """
        if self.extra:
            raise UsageError(f"Pillow has no mode for {self.extra} extra samples: use pixels")
        return interop.to_pil(self.pixels, self.metadata)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """For `numpy.asarray(image)`."""
        pixels = self.pixels
        if dtype is not None and np.dtype(dtype) != pixels.dtype:
            if copy is False:
                raise ValueError(f"pixels of {pixels.dtype} become {np.dtype(dtype)} only by a copy")
            return pixels.astype(dtype)
        return pixels.copy() if copy else pixels

    def __repr__(self) -> str:
        source = f" {self.format}" if self.format else ""
        steps = f" after {str(self.pipeline)!r}" if self._steps else ""
        return f"<Image {self._frame}{source}{steps}>"

    def __reduce__(self) -> tuple[type[Image], tuple[Origin, tuple[Step, ...]]]:
        return Image, (self._origin, self._steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open: a `with` statement is allowed as in Pillow, and not needed."""

    def _repr_png_(self) -> bytes:
        """For notebooks: at most `SHOWN` pixels wide and high."""
        return self._preview()

    def _repr_html_(self) -> str:
        """For notebooks: the picture with a line about it."""
        text = base64.b64encode(self._preview()).decode()
        return (
            f'<figure style="margin:0"><img alt="" src="data:image/png;base64,{text}">'
            f"<figcaption>{self._frame}{f', {self.format}' if self.format else ''}</figcaption></figure>"
        )

    # How it is made

    def _preview(self) -> bytes:
        from imageloom.report.look import thumbnail

        small = thumbnail(operators.shown(self.pixels, self.extra), SHOWN)
        return Image.from_array(small, metadata=Metadata(icc=self.profile)).encode("png")

    @property
    def _frame(self) -> Frame:
        return self._plan.frame

    def _chunk(self, recipe: Recipe) -> items.Chunk:
        """The pixels of a recipe's output. The last ones are kept."""
        plan = self._origin.plan(recipe)
        key = plan.luma, plan.scale, plan.outputs[0].steps, recipe.metadata == "strip"
        made = self._made
        if made is None or made[0] != key:
            self._made = made = key, self._origin.make(recipe)  # other threads may replace it
        return made[1]

    def _encode(
        self,
        path: str,
        format: Format | None,
        quality: object,
        subsampling: object,
        metadata: object,
        colors: object,
        gain_map: object,
    ) -> tuple[bytes | dict[str, bytes], Saved]:
        """The file that `save` writes.

        Raises:
            UsageError: an argument is invalid, or the format is not known.
        """
        own = codecs.written_as(None, self.format) if self.format and not path else None
        if (chosen := format or own) is None:
            name = os.path.basename(path)
            where = (
                f"the name {name!r} does not end in the suffix of a format" if path else "there is no path"
            )
            raise UsageError(f"format is not given, and {where}: give it, such as format='png'")
        recipe = self._origin.recipe_for(self._steps, chosen, quality=plain(quality), subsampling=subsampling)
        validated(recipe.outputs[0])
        given: dict[str, Any] = {"metadata": metadata, "colors": colors, "gain_map": gain_map}
        recipe = validated(replace(recipe, **given))
        with blamed(self._origin.name):
            data, about = self._origin.encode(recipe, self._chunk(recipe))
        size = len(data) if isinstance(data, bytes) else sum(map(len, data.values()))
        return data, Saved(path, chosen, size, about.dropped, about.warnings)
