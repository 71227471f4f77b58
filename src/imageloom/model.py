"""The words of imageloom as frozen plain data: what crosses a boundary is one of these, never a callable.

Sizes are in pixels, times in seconds, byte counts in bytes, unless a field says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec

from imageloom.errors import ItemError, UnreadableItem, message_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[Any]
else:
    Pixels = Any
"""An image: an array (height, width) of gray or (height, width, channels) of gray+alpha, RGB or RGBA.

8 and 16 bit use the whole range of their unsigned integers; float32 runs from 0 to 1.
"""

DType = Literal["uint8", "uint16", "float32"]
Decode = Literal["safe", "fast", "exact"]
Format = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]  # a codec's name: see `codecs.get`
Keep = Literal["keep", "strip"]
Value = int | float | str | bool | None


class Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of all plain data here: immutable, comparable, ready for the wire."""


LARGE = 16_000_000
"""Pixels beyond which JPEG, PNG and TIFF files are encoded piece by piece, however they are worked out."""


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
        """The frame of an array of pixels."""
        channels = 1 if image.ndim == 2 else image.shape[2]
        return cls(image.shape[1], image.shape[0], channels, image.dtype.name)  # type: ignore[arg-type]

    def __str__(self) -> str:
        kinds = {1: "gray", 2: "gray+alpha", 3: "RGB", 4: "RGBA"}
        kind = kinds.get(self.channels, f"{self.channels} channels")
        return f"{self.width}x{self.height} {kind} {self.dtype}"


class Box(Plain, frozen=True):
    """A half-open rectangle of pixels: x0 and y0 are inside, x1 and y1 are not."""

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
        """The smallest box around it whose edges are multiples of `step`."""
        return Box(
            self.x0 // step * step,
            self.y0 // step * step,
            -(-self.x1 // step) * step,
            -(-self.y1 // step) * step,
        )

    def within(self, other: Box) -> Box:
        """What of it lies in the other box."""
        start = max(self.x0, other.x0), max(self.y0, other.y0)
        return Box(*start, min(self.x1, other.x1), min(self.y1, other.y1))

    def slices(self, outer: Box) -> tuple[slice, slice]:
        """The rows and columns that it has in an array of the pixels of `outer`."""
        x, y = outer.x0, outer.y0
        return slice(self.y0 - y, self.y1 - y), slice(self.x0 - x, self.x1 - x)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}+{self.x0}+{self.y0}"


class Tile(Plain, frozen=True):
    """A part of an image that is worked out by itself."""

    write: Box
    """Of the result."""
    read: Box
    """The pixels of the input that the result there is made of."""


def is_large(image: Pixels) -> bool:
    """`Frame.is_large` of an array of pixels, without the frame."""
    return bool(image.shape[0] * image.shape[1] > LARGE)


class Header(Plain, frozen=True):
    """What can be known of an image before it is decoded."""

    format: Format
    frame: Frame
    """What decoding yields, before the orientation is applied."""
    orientation: int = 1
    """EXIF's Orientation, 1 to 8: how the stored pixels are to be turned to be seen upright."""
    scalable: bool = False
    """The codec can decode at 1/2, 1/4 and 1/8 of the size by itself (a JPEG's DCT)."""
    buffered: int = 0
    """Bytes that the codec holds beside the pixels (a progressive JPEG's coefficients)."""


class Metadata(Plain, frozen=True):
    """What a file says of its pixels, as blocks of bytes; empty where it says nothing."""

    exif: bytes = b""
    """A TIFF structure, without the prefix that a JPEG puts before it."""
    xmp: bytes = b""
    extended_xmp: bytes = b""
    """What did not fit into the packet of a JPEG. No other format carries it."""
    icc: bytes = b""
    """The colour profile."""


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
    """One result that a recipe makes of every item."""

    steps: tuple[Step, ...]
    folder: str = ""
    """Below the sink; empty for the sink itself."""
    format: Format | None = None
    """None: the format of the input."""
    quality: int | None = None
    """1 to 100, for lossy formats; None: the format's default."""


class Recipe(Plain, frozen=True):
    """What is made of every item: one or more outputs of one decode."""

    outputs: tuple[Output, ...]
    decode: Decode = "safe"
    """How far a shrinking decode may go: never below twice the target, below the target, or not at all."""
    operators: tuple[str, ...] = ()
    """Paths of the files that bring operators of the user's own."""
    metadata: Keep = "keep"
    """Whether EXIF, XMP and the colour profile go along into the outputs."""


class Limits(Plain, frozen=True):
    """What is refused from the header alone, before any pixel is decoded."""

    max_pixels: int = 512_000_000
    max_file_size: int = 4 << 30
    max_expansion: int = 1000
    """Decoded bytes for each byte of the file, asked only of images that decode to more than 64 MB."""


IfExists = Literal["error", "skip", "overwrite"]
Links = Literal["follow", "inside", "refuse"]
"""Which links in a local source are followed: all, those that lead to a place inside of it, or none."""


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
    """What happens to an output whose name a file has that imageloom did not make."""
    retry_failed: bool = False
    """Do only the items that failed before."""
    memory: int = 0
    """Bytes that the tasks in flight may need together; 0 for half of the machine's."""
    name: str = "{dir}/{stem}.{ext}"
    """How outputs are named below the sink, or below their output's folder."""
    in_place: bool = False
    """Each output takes the place of its input; source and sink are the same folder."""
    tile: Literal["auto", "always", "never"] = "auto"
    """Whether images are done in tiles; auto: those that need much memory, or have all workers to themselves."""
    items_at_once: int = 0
    """Images under way at one time; 0 for as many as there is room for."""
    scratch: str = ""
    """Path of a folder for the pixels of large images; empty for one in the sink."""
    in_flight: int = 0
    """Requests in flight on stores that are not local; 0 for as many as measuring finds."""
    attempts: int = 3
    """After so many failed attempts an item is given up on."""
    links: Links = "follow"


class Item(Plain, frozen=True):
    """One input image of a job."""

    key: str
    """Relative path below the source, with forward slashes."""
    size: int = 0
    mtime_ns: int = 0
    etag: str = ""
    """What the store calls this version of it; empty where it says nothing."""

    @property
    def fingerprint(self) -> str:
        """Changes when the input does."""
        return f"{self.size}-{self.etag or self.mtime_ns}"

    def check(self, found: Item) -> None:
        """Refuse another file than this one, as far as both say which version they are.

        Raises:
            UnreadableItem: `found` has another size, etag or time.
        """
        for what, planned, here in (
            ("size", self.size, found.size),
            ("etag", self.etag, found.etag),
            ("mtime", self.mtime_ns, found.mtime_ns),
        ):
            if planned and here and planned != here:
                raise UnreadableItem(
                    f"it is not the file that was planned ({what} {here} here, {planned} when planned): it was "
                    "changed meanwhile, or this worker sees another file under its name"
                )
            if what == "etag" and planned and here:
                return


class Work(Plain, frozen=True):
    """One item of a task: what to read, and the names of what to make of it."""

    item: Item
    names: tuple[str, ...]
    """The output names below the sink, one for each output of the recipe."""
    number: int
    """Of the item in the run: it tells the staged outputs of items with equal file names apart."""
    attempt: int = 1
    header: Header | None = None
    """As it was planned with; None to read it again."""
    replace: bool = False
    """Outputs may take the place of what has their names."""


class Part(Plain, frozen=True):
    """One tile of a large image, as a task does it: of a phase of one output, or that output's encoding."""

    number: int
    """Of the tile in its phase, in the order of the rows."""
    output: int
    phase: int
    """After the last phase comes the encoding of the whole, where the output is not written piece by piece."""
    write: Box
    first: Step | None = None
    """The phase's first step, fixed by what was measured."""
    reads: str = ""
    """The raster's path; empty where the tile is read from the item's own file."""
    writes: str = ""
    """The raster's path; empty where the pixels are compressed and staged as pieces of the output."""
    file: str = ""
    """The path of the item's file, or of a copy of it."""
    staging: str = ""
    """The path of the folder that pieces are staged in."""
    folder: str = ""
    """Path of the staged output where it is a folder that takes each piece as a file of its own."""
    mtime_ns: int = 0
    """Of the file, as it was when the image was begun; 0 where that is not known."""


class Piece(Plain, frozen=True):
    """A compressed piece of a large output, within what a part has staged."""

    index: int
    size: int


class Task(Plain, frozen=True):
    """What one worker does at once: a batch of small items, or one part of a large one."""

    id: int
    job: str
    source: str
    """Address of the store that items are read from."""
    sink: str
    """Address of the store that outputs are staged in."""
    recipe: Recipe
    limits: Limits
    work: tuple[Work, ...]
    part: Part | None = None
    """Do this part of the one item alone."""
    links: Links = "follow"
    roots: tuple[str, ...] = ()
    """Local folders beneath which files are opened; none for no bounds. A worker's guard puts its own here."""
    source_roots: tuple[str, ...] = ()
    """Likewise for items; none where all links in the source are followed."""
    digests: tuple[str, ...] = ()
    """The SHA-256 of each file of operators, as the driver has it."""


class Written(Plain, frozen=True):
    """An output that is staged in the sink, not yet published."""

    name: str
    staged: str
    """The sink's token for the staged bytes."""
    size: int


STAGES = ("read", "decode", "filter", "encode", "write")
"""What an attempt goes through, in this order."""


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
    """Another attempt may succeed."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """An error as plain data."""
        if isinstance(error, ItemError):
            return cls(type(error).__name__, message_of(error), error.transient)
        if isinstance(error, MemoryError):
            return cls("MemoryError", "there was not enough memory", True)
        return cls(type(error).__name__, f"{type(error).__name__}: {message_of(error)}")


class Unlisted(Plain, frozen=True):
    """A name in a store that looks like an item and cannot be one."""

    key: str
    """As it can be shown; of a folder that cannot be listed it ends with a slash."""
    failure: Failure
    is_folder: bool = False


class Result(Plain, frozen=True):
    """What came of one item of a task: written outputs, or a failure."""

    key: str
    written: tuple[Written, ...] = ()
    failure: Failure | None = None
    times: Times = Times()
    started: float = 0.0
    """Seconds since the epoch."""
    pixels: int = 0
    """Decoded pixels."""
    pieces: tuple[Piece, ...] = ()
    """What the one written file of a part holds, one after the other."""
    measure: bytes = b""
    """What a part has measured, as `tiles.unpack` reads it."""
    lost: float = 0.0
    """Seconds that a worker had spent on it, in whichever stage, when it died."""
    worker: str = ""
    """Who made it, where that may be another one than the outcome's."""


class Outcome(Plain, frozen=True):
    """What came of a task: a result for each of its items, in order."""

    task: int
    worker: str
    results: tuple[Result, ...]
