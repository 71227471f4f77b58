"""Work: items, the tasks that workers receive, and the results that they return."""

from __future__ import annotations

import re

from imageloom.errors import ImageloomError, ItemError, UnreadableItem, WorkerLost, message_of
from imageloom.model.image import Box, Header, Plain, Thing
from imageloom.model.recipe import MOST_PAGES, Limits, Links, Recipe, Step
from imageloom.system.sandbox import Sandbox
from imageloom.system.tracing import masked, trace_of

_PAGE = re.compile(r"(?s)(.+)/\./page=([1-9][0-9]{0,4})")
"""A key of a page. No file has such a key, because "." is not allowed in keys."""


def page_key(path: str, page: int) -> str:
    """The key of a page of a file.

    Args:
        page: number of the page, from 0.
    """
    return f"{path}/./page={min(page + 1, MOST_PAGES)}"


def path_and_page(key: str) -> tuple[str, int | None]:
    """The path of a key's file, and the number of the page from 0; None if the key is that of a file."""
    if "/./" not in key or (found := _PAGE.fullmatch(key)) is None:
        return key, None
    return found[1], int(found[2]) - 1


class Item(Plain, frozen=True):
    """One input image of a job: a file, or a page of a file."""

    key: str
    """Path relative to the source, with forward slashes; for a page see `page_key`."""
    size: int = 0
    mtime_ns: int = 0
    etag: str = ""
    """The store's identifier of this version of the file; empty if the store has none."""

    @property
    def path(self) -> str:
        """The path of the item's file, relative to the source."""
        return path_and_page(self.key)[0]

    @property
    def page(self) -> int:
        """The number of the page in the file, from 0."""
        return path_and_page(self.key)[1] or 0

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
    hashed: bool = False
    """In the names, the worker replaces {hash} by the digest of the output's bytes."""


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


class Relay(Plain, frozen=True):
    """How a worker reaches the source and the sink through the driver of a run (--relay)."""

    token: str
    """The secret of the run."""
    certificate: str
    """The driver's certificate, in PEM."""


class Task(Plain, frozen=True, omit_defaults=True):
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
    relay: Relay | None = None
    """How source and sink are reached, if their addresses are those of a relay."""


class Written(Plain, frozen=True):
    """An output that is staged in the sink, and not yet published."""

    name: str
    staged: str
    """The sink's token of the staged bytes."""
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
    """What is wrong, and what to do, in one line."""
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


MOST_WARNINGS = 8
"""Maximum number of warnings of one result."""
MISSING = "pixels are missing: "
"""The start of a warning about damage by which the result lacks pixels of the image."""
MOST_WARNING = 200
"""Maximum length of a warning, in characters."""


class Result(Plain, frozen=True):
    """The result of one item of a task: written outputs, or a failure."""

    key: str
    written: tuple[Written, ...] = ()
    failure: Failure | None = None
    times: Times = Times()
    started: float = 0.0
    """Seconds since the epoch."""
    pixels: int = 0
    """Number of decoded pixels."""
    pieces: tuple[Piece, ...] = ()
    """The pieces in the written file of a part, in their order."""
    measure: bytes = b""
    """The measure of a part, for `tiles.unpack`."""
    lost: float = 0.0
    """Seconds that a worker had spent on the item when the worker died."""
    worker: str = ""
    """The worker that made the result, if it may differ from the worker of the outcome."""
    dropped: tuple[Thing, ...] = ()
    """What the input has and an output lacks, sorted, each once."""
    warnings: tuple[str, ...] = ()
    """Damage of the file that did not prevent its decoding, at most `MOST_WARNINGS` sentences."""


class Outcome(Plain, frozen=True):
    """The result of a task: one result per item, in the order of the items."""

    task: int
    worker: str
    results: tuple[Result, ...]
