"""The data types of imageloom: frozen structs. Only these are sent between processes, never functions.

Sizes are in pixels, times in seconds, memory and files in bytes, unless a field says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec

from imageloom.errors import ImageloomError, ItemError, UnreadableItem, WorkerLost, message_of
from imageloom.system.sandbox import Sandbox
from imageloom.system.tracing import masked, trace_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[Any]
else:
    Pixels = Any
"""An image: an array (height, width) for gray, or (height, width, channels) for gray+alpha, RGB and RGBA.

uint8 and uint16 use the full range of the type; float32 is from 0 to 1.
"""

DType = Literal["uint8", "uint16", "float32"]
Decode = Literal["safe", "fast", "exact"]
Format = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]  # a codec's name: see `codecs.get`
Keep = Literal["keep", "strip"]
Value = int | float | str | bool | None


class Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base class of these data types: immutable, comparable and serializable."""


LARGE = 16_000_000
"""JPEG, PNG and TIFF outputs with more pixels are encoded piece by piece, with or without tiles."""


class Frame(Plain, frozen=True):
    """The shape of an image between two steps."""

    width: int
    height: int
    channels: int
    """1 gray, 2 gray and alpha, 3 RGB, 4 RGBA."""
    dtype: DType = "uint8"

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def bytes(self) -> int:
        return self.pixels * self.channels * {"uint8": 1, "uint16": 2, "float32": 4}[self.dtype]

    @property
    def is_large(self) -> bool:
        return self.pixels > LARGE

    def is_as_large_as(self, other: Frame) -> bool:
        return (self.width, self.height) == (other.width, other.height)

    @classmethod
    def of(cls, image: Pixels) -> Frame:
        """The frame of an image in memory."""
        channels = 1 if image.ndim == 2 else image.shape[2]
        return cls(image.shape[1], image.shape[0], channels, image.dtype.name)  # type: ignore[arg-type]

    def __str__(self) -> str:
        names = {1: "gray", 2: "gray+alpha", 3: "RGB", 4: "RGBA"}
        kind = names.get(self.channels, f"{self.channels} channels")
        return f"{self.width}x{self.height} {kind} {self.dtype}"


class Box(Plain, frozen=True):
    """A half-open rectangle of pixels: it includes x0 and y0, but not x1 and y1."""

    x0: int
    y0: int
    x1: int
    y1: int

    @classmethod
    def of(cls, frame: Frame) -> Box:
        return cls(0, 0, frame.width, frame.height)

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    def moved(self, x: int, y: int) -> Box:
        return Box(self.x0 + x, self.y0 + y, self.x1 + x, self.y1 + y)

    def grown(self, pixels: int) -> Box:
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
    buffered: int = 0
    """Bytes that the decoder needs in addition to the pixels (coefficients of a progressive JPEG)."""


class Metadata(Plain, frozen=True):
    """The metadata blocks of a file; empty if the file has none."""

    exif: bytes = b""
    """A TIFF structure, without the prefix that it has in a JPEG."""
    xmp: bytes = b""
    extended_xmp: bytes = b""
    """The part of the XMP that does not fit into a JPEG's first packet. Only JPEG has it."""
    icc: bytes = b""  # the colour profile


NO_METADATA = Metadata()


class Step(Plain, frozen=True):
    """An operator's name with its parameters."""

    name: str
    params: dict[str, Value] = {}

    join: ClassVar[Callable[[Step, object], Any] | None] = None
    """What `step | other` gives: `recipes.pipeline` sets it, because pipelines need the operators."""

    def __or__(self, other: object) -> Any:
        return self.join(other) if self.join is not None else NotImplemented


class Output(Plain, frozen=True):
    """One of the outputs that a recipe makes of each item."""

    steps: tuple[Step, ...]
    folder: str = ""
    """Path relative to the sink; empty for the sink itself."""
    format: Format | None = None
    """None: the format of the input."""
    quality: int | None = None
    """1 to 100, for lossy formats; None: the format's default."""


class Recipe(Plain, frozen=True):
    """The outputs to make of each item. The item is decoded once for all outputs."""

    outputs: tuple[Output, ...]
    decode: Decode = "safe"
    """How far the decoder may shrink a JPEG before a resize: to twice the target size, to the target size, not."""
    operators: tuple[str, ...] = ()
    """Paths of the Python files that define the user's operators."""
    metadata: Keep = "keep"
    """Whether the outputs keep EXIF, XMP and the colour profile."""


class Limits(Plain, frozen=True):
    """Limits that are checked against an image's header, before any pixel is decoded."""

    max_pixels: int = 512_000_000
    max_file_size: int = 4 << 30
    max_expansion: int = 1000
    """Decoded bytes per byte of the file. Checked only if an image decodes to more than 64 MB."""


IfExists = Literal["error", "skip", "overwrite"]
Links = Literal["follow", "inside", "refuse"]
"""Which symbolic links in a local source are read: all, those that point inside the source, or none."""


class Job(Plain, frozen=True):
    """One run of a recipe over a source into a sink."""

    source: str
    """Address of a folder or a file."""
    sink: str
    """Address of a folder."""
    recipe: Recipe
    limits: Limits = Limits()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    if_exists: IfExists = "error"
    """What to do if an output's name is taken by a file that imageloom did not make."""
    retry_failed: bool = False
    """Process only the items that failed in an earlier run."""
    memory: int = 0
    """Maximum memory of all tasks in flight together, in bytes; 0: half of the machine's memory."""
    name: str = "{dir}/{stem}.{ext}"
    """Template of the output names, relative to the sink or to the output's folder."""
    in_place: bool = False
    """Each output replaces its input; source and sink are the same folder."""
    tile: Literal["auto", "always", "never"] = "auto"
    """Whether images are processed in tiles. auto: if an image is large, or the only one in progress."""
    items_at_once: int = 0
    """Maximum number of images in progress; 0: as many as memory and workers allow."""
    scratch: str = ""
    """Path of a folder for temporary pixel files of large images; empty for a folder in the sink."""
    in_flight: int = 0
    """Number of requests in flight to remote storage; 0: tuned automatically."""
    attempts: int = 3
    """An item fails for good after this number of failed attempts."""
    links: Links = "follow"
    sandbox: Sandbox = Sandbox()


class Item(Plain, frozen=True):
    """One input image of a job."""

    key: str
    """Path relative to the source, with forward slashes."""
    size: int = 0
    mtime_ns: int = 0
    etag: str = ""
    """The store's identifier of this version of the file; empty if the store has none."""

    @property
    def fingerprint(self) -> str:
        """A text that changes when the file changes."""
        return f"{self.size}-{self.etag or self.mtime_ns}"

    def check(self, found: Item) -> None:
        """Check that `found` is the same version of the file. Values that one of both lacks are not compared.

        Raises:
            UnreadableItem: `found` has another size, etag or modification time.
        """
        for what, planned, here in (
            ("size", self.size, found.size),
            ("etag", self.etag, found.etag),
            ("mtime", self.mtime_ns, found.mtime_ns),
        ):
            if planned and here and planned != here:
                raise UnreadableItem(
                    f"the file differs from the one that was planned ({what} is {here}, was {planned}): it was "
                    "changed during the run, or this worker sees another file at the same path"
                )
            if what == "etag" and planned and here:
                return


class Work(Plain, frozen=True):
    """One item of a task: the file to read and the names of the outputs to make."""

    item: Item
    names: tuple[str, ...]
    """Names of the outputs relative to the sink, one per output of the recipe."""
    number: int
    """Number of the item in the run. It makes the names of staged outputs unique."""
    attempt: int = 1
    header: Header | None = None
    """The header that the plan is based on; None: the worker reads it."""
    replace: bool = False
    """Outputs may replace existing files."""


class Part(Plain, frozen=True):
    """A part of the work on a large image: one tile of one phase of one output, or the encoding of an output."""

    number: int
    """Number of the tile in its phase, row by row."""
    output: int
    phase: int
    """The number after the last phase means the encoding of the whole output, if it is not written in pieces."""
    write: Box
    first: Step | None = None
    """The first step of the phase, with parameters from the measurement before it."""
    reads: str = ""
    """Path of the raster to read from; empty: the tile is read from the item's file."""
    writes: str = ""
    """Path of the raster to write to; empty: the pixels are compressed and staged as pieces of the output."""
    file: str = ""
    """Path of the item's file, or of a copy of it."""
    staging: str = ""
    """Path of the folder for staged pieces."""
    folder: str = ""
    """Path of the staged output, if the output is a folder with one file per piece."""
    mtime_ns: int = 0
    """Modification time of the file when the image was started; 0 if unknown."""


class Piece(Plain, frozen=True):
    """A compressed piece of a large output, inside the file that a part has staged."""

    index: int
    size: int


class Task(Plain, frozen=True):
    """The unit of work that is sent to a worker: a batch of small items, or one part of a large item."""

    id: int
    job: str
    source: str
    """Address of the store to read items from."""
    sink: str
    """Address of the store to stage outputs in."""
    recipe: Recipe
    limits: Limits
    work: tuple[Work, ...]
    part: Part | None = None
    """If set, do only this part of the task's one item."""
    links: Links = "follow"
    roots: tuple[str, ...] = ()
    """Local folders that files must be in; empty: no restriction. The worker's guard sets its own roots here."""
    source_roots: tuple[str, ...] = ()
    """Local folders that items must be in; empty if all links in the source are followed."""
    digests: tuple[str, ...] = ()
    """The SHA-256 of each file of operators that the driver has loaded."""
    sandbox: Sandbox = Sandbox()


class Written(Plain, frozen=True):
    """An output that is staged in the sink, and not yet published."""

    name: str
    staged: str  # the sink's token of the staged bytes
    size: int


STAGES = ("read", "decode", "filter", "encode", "write")
"""The stages of an attempt, in this order."""


class Times(Plain, frozen=True):
    """Seconds that an attempt spent in each stage."""

    read: float = 0.0
    decode: float = 0.0
    filter: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    @property
    def total(self) -> float:
        return self.read + self.decode + self.filter + self.encode + self.write


class Failure(Plain, frozen=True):
    """Why an attempt at an item failed."""

    kind: str
    """The class name of the error, as in `errors`."""
    message: str
    transient: bool = False
    """A retry may succeed."""
    trace: str = ""
    """The traceback of a bug, or of what an operator raised; empty for other errors."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that describes an exception, without the passwords of addresses."""
        if isinstance(error, MemoryError):
            return cls("MemoryError", "the worker ran out of memory", True)
        kind, message = type(error).__name__, masked(message_of(error))
        if not isinstance(error, (ItemError, WorkerLost)):
            message = f"{kind}: {message}"
        return cls(kind, message, isinstance(error, ImageloomError) and error.transient, trace_of(error))


class Unlisted(Plain, frozen=True):
    """A name in a store that looks like an image, but cannot be processed."""

    key: str
    """The printable name. It ends with a slash for a folder that cannot be listed."""
    failure: Failure
    is_folder: bool = False


class Result(Plain, frozen=True):
    """The result of one item of a task: written outputs, or a failure."""

    key: str
    written: tuple[Written, ...] = ()
    failure: Failure | None = None
    times: Times = Times()
    started: float = 0.0
    """Seconds since the epoch."""
    pixels: int = 0  # decoded
    pieces: tuple[Piece, ...] = ()
    """The pieces in the written file of a part, in their order."""
    measure: bytes = b""
    """The measure of a part, for `tiles.unpack`."""
    lost: float = 0.0
    """Seconds that a worker had spent on the item when the worker died."""
    worker: str = ""
    """The worker that made the result, if it may differ from the worker of the outcome."""


class Outcome(Plain, frozen=True):
    """The result of a task: one result per item, in the order of the items."""

    task: int
    worker: str
    results: tuple[Result, ...]
