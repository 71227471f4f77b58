"""Recipes and jobs: what is to be done, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from imageloom.model.image import Format, Plain, Subsampling
from imageloom.model.shard import Shard
from imageloom.system.sandbox import Sandbox

Decode = Literal["safe", "fast", "exact"]
"""How far a JPEG may be shrunk while it is decoded, before a resize: to twice the target size; to the
target size; not at all."""
Keep = Literal["keep", "strict", "strip"]
"""What happens to metadata: kept (what is dropped is reported), kept or the item fails, removed."""
Damage = Literal["refuse", "warn", "salvage"]
"""Which damaged files are accepted: none; those whose pixels are all there; all that can be decoded in part."""
Chroma = Literal["keep", "444", "422", "420"]
"""The chroma subsampling that a user asks for: that of the input, or a fixed one."""
Colors = Literal["keep", "srgb"]
"""Whether outputs keep the colour description of the input, or are converted to sRGB."""
MOST_PAGES = 99_999
Pages = Literal["first", "all"] | Annotated[int, Meta(ge=1, le=MOST_PAGES)]
"""Which pages of a file become items: the first one, all of them, or the one with this number."""
GainMap = Literal["keep", "drop"]
"""Whether the gain map of an Ultra HDR photo is processed along with the photo."""
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Value = int | float | str | bool | None


class Step(Plain, frozen=True):
    """An operator's name with its parameters."""

    name: str
    """Name of the operator."""
    params: dict[str, Value] = {}  # noqa: RUF012 - msgspec copies it
    """Values of its parameters by name; others have their defaults."""

    join: ClassVar[Callable[[Step, object], Any] | None] = None
    """What `step | other` gives: `recipes.pipeline` sets it, because pipelines need the operators."""

    def __or__(self, other: object) -> Any:
        return self.join(other) if self.join is not None else NotImplemented


class Encoding(Plain, frozen=True):
    """The options of an encoder; each codec ignores those that it does not have."""

    quality: int = 0
    """1 to 100, for lossy encoders."""
    lossless: bool = False
    """Use the lossless encoder of a format that has both."""
    subsampling: Subsampling | None = None
    """Chroma subsampling of a lossy encoder; None for the codec's default."""
    extra: int = 0
    """The number of extra samples, see `Frame.extra`."""
    max_bytes: int = 0
    """Lower the quality until the file has at most so many bytes; 0: do not."""
    progressive: bool = False
    """Write a JPEG in several scans."""
    effort: int = 0
    """1 (fast) to 9 (small files) for encoders that have such a setting; 0: the codec's default."""


class Output(Plain, frozen=True):
    """One of the outputs that a recipe makes of each item."""

    steps: tuple[Step, ...]
    """The steps for each image, in their order."""
    folder: str = ""
    """Path relative to the sink; empty for the sink itself."""
    format: Format | None = None
    """None: the format of the input."""
    quality: Annotated[int, Meta(ge=1, le=100)] | None = None
    """1 to 100, for lossy formats; None: the format's default."""
    subsampling: Chroma | None = None
    """The chroma subsampling of lossy formats; keep: that of the input, if it is known; None: the default."""
    max_bytes: Count = 0
    """The quality is lowered until the file has at most so many bytes; 0: no limit."""
    lossless: bool = False
    """Use the lossless encoder of a format that has both."""
    progressive: bool = False
    """Write JPEGs in several scans."""
    effort: Annotated[int, Meta(ge=1, le=9)] | None = None
    """1 (fast) to 9 (small files), for formats with such a setting; None: the format's default."""
    only_if_smaller: bool = False
    """Write no file that is not smaller than the item's own file; see `worker.smaller`."""
    when: str = ""
    """The output is made of an item for which this condition holds, see `recipes.when`; empty: of all items."""
    width: Count = 0
    """The pixels are resized to this width after the steps, but never enlarged; 0: they are not."""
    above: Count = 0
    """The output is made only if the pixels after the steps are wider than this."""
    name: str = ""
    """Template of the output's name, see `recipes.fields`; empty: that of the job."""


class Recipe(Plain, frozen=True):
    """The outputs to make of each item. The item is decoded once for all outputs."""

    outputs: tuple[Output, ...]
    """At least one."""
    decode: Decode = "safe"
    """How far the decoder may shrink a JPEG before a resize: to twice the target size, to the target size, not."""
    operators: tuple[str, ...] = ()
    """Paths of the Python files that define the user's operators."""
    metadata: Keep = "keep"
    """What happens to metadata."""
    damage: Damage = "warn"
    """Which damaged files are accepted."""
    colors: Colors = "keep"
    """What happens to the colours of the input."""
    gain_map: GainMap = "keep"
    """What happens to the gain map of an Ultra HDR photo."""
    pages: Pages = "first"
    """Which pages of a file are processed."""
    density: Annotated[int, Meta(ge=0, le=4800)] = 0
    """Pixels per inch at which documents are drawn (PDF, SVG); 0: each format's default."""


class Limits(Plain, frozen=True):
    """Limits that are checked against an image's header, before any pixel is decoded."""

    max_pixels: Annotated[int, Meta(ge=1)] = 512_000_000
    """Maximum width times height of an image."""
    max_file_size: Annotated[int, Meta(ge=1)] = 4 << 30
    """Maximum size of a file in bytes."""
    max_expansion: Annotated[int, Meta(ge=1)] = 1000
    """Decoded bytes per byte of the file. Checked only if an image decodes to more than 64 MB."""


IfExists = Literal["error", "skip", "overwrite"]
"""What happens if an output's name is taken by a file that imageloom did not make: the item fails, is
skipped, or the file is replaced."""
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
    memory: Count = 0
    """Maximum memory of all tasks in flight together, in bytes; 0: half of the machine's memory."""
    name: str = "{dir}/{stem}.{ext}"
    """Template of the output names, relative to the sink or to the output's folder."""
    in_place: bool = False
    """Each output replaces its input; source and sink are the same folder."""
    tile: Literal["auto", "always", "never"] = "auto"
    """Whether images are processed in tiles. auto: if an image is large, or the only one in progress."""
    items_at_once: Count = 0
    """Maximum number of images in progress; 0: as many as memory and workers allow."""
    scratch: str = ""
    """Path of a folder for temporary pixel files of large images; empty for a folder in the sink."""
    in_flight: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Number of requests in flight to remote storage; 0: tuned automatically."""
    attempts: Annotated[int, Meta(ge=1)] = 3
    """An item fails for good after this number of failed attempts."""
    links: Links = "follow"
    sandbox: Sandbox = Sandbox()
    durable: bool | None = None
    """Outputs and ledger survive a power cut: they are flushed to the disk. None: only with `in_place`."""
    files: tuple[str, ...] | None = None
    """Names of the files to process, relative to the source; None: all of them."""
    newer_than: Annotated[float, Meta(ge=0)] = 0.0
    """Process only files that were changed after this time, in seconds since the epoch; 0: all of them."""
    adopt: bool = False
    """An existing file that equals an output, byte for byte, becomes this output."""
    shard: Shard | None = None
    """Process only the items of this shard; other runs process the others, at the same time. None: all."""

    @property
    def is_durable(self) -> bool:
        """Whether outputs and ledger are flushed to the disk."""
        return self.in_place if self.durable is None else self.durable
