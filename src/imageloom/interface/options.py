"""The options of `process`, `stream` and `start`: their types, their meaning, and the job that they
describe."""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from difflib import get_close_matches
from itertools import pairwise
from math import isfinite
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar

from msgspec.structs import replace

from imageloom.driver.choosing import checked_names, moment
from imageloom.driver.places import checked
from imageloom.driver.validation import validated
from imageloom.engines import ENGINES, Settings, check_settings
from imageloom.errors import UsageError
from imageloom.interface.arguments import address, limits_of, plain
from imageloom.interface.choice import choose_engine
from imageloom.interface.manifests import check_manifests
from imageloom.interface.recipes import recipe_of
from imageloom.model import (
    Chroma,
    Colors,
    Damage,
    Decode,
    Format,
    GainMap,
    IfExists,
    Job,
    Keep,
    Limits,
    Links,
    Pages,
    Shard,
)
from imageloom.records.events import Listener
from imageloom.system.sandbox import Mode, Sandbox

SandboxMode = Mode
"""Whether items are decoded in sandboxed processes: always, and the kernel must be able to restrict them;
with the restrictions that the kernel has, except for formats of a short list; or never."""
_F = TypeVar("_F", bound=Callable[..., Any])


class Options(TypedDict, total=False):
    """The options of `process`, `stream` and `start`; all are optional."""

    engine: str
    """`auto` (the default), or the name of an engine: serial, threads, processes, pipeline, zeromq, redis,
    nodes, mpi, dask, ray, or one of an installed plug-in."""
    connect: str
    """Address of an existing cluster, for the engines that connect to one."""
    jobs: int
    """Number of workers on this machine. 0: one per core, or none if `bind` or `connect` brings workers."""
    threads: int
    """Number of threads in each worker process, for the engines that have worker processes."""
    timeout: float
    """Time-out of one item in seconds, for the engines that have worker processes (600)."""
    bind: str
    """Address to listen on for external workers, for the engines that have such."""
    keys: str
    """Path of this side's key file; see `imageloom keys`."""
    format: Format | None
    """Format of the outputs; None: the format of each input."""
    quality: int | None
    """1 to 100, for lossy formats; None: the format's default."""
    subsampling: Chroma | None
    """Chroma subsampling of JPEG, AVIF and HEIF: `keep` that of each input; None: 420."""
    max_bytes: int
    """Lower the quality of each output until its file has at most so many bytes; 0: no limit."""
    lossless: bool
    """Encode WebP, AVIF, HEIF and JPEG XL outputs without loss."""
    progressive: bool
    """Write JPEG outputs in several scans."""
    effort: int | None
    """Time to spend on small files, 1 (fast) to 9, for WebP, AVIF, HEIF, JPEG XL and PNG; None: the usual one."""
    only_if_smaller: bool
    """Write no file that is not smaller than its input, or a copy of the input if the output would be the same
    picture in the same format."""
    widths: Iterable[int]
    """Make an output of each of these widths; no image is enlarged."""
    formats: Iterable[Format]
    """Make an output in each of these formats, instead of in `format`."""
    decode: Decode
    """How far the decoder may shrink an image before a resize: to twice the target size (`safe`), to the
    target size (`fast`), not (`exact`)."""
    damage: Damage
    """Which damaged files are accepted: none (`refuse`), those whose pixels are all there (`warn`), all that
    can be decoded in part (`salvage`)."""
    metadata: Keep
    """Whether the outputs keep EXIF, XMP, the colour profile and the like. What an output cannot hold is
    dropped and reported (`keep`), or fails the item (`strict`); `strip` removes all."""
    pages: Pages
    """Which pages of a file are processed, each as an item of its own: `first`, `all`, or a number from 1."""
    density: int
    """Pixels per inch at which documents are drawn; 0: the format's default."""
    colors: Colors
    """Whether the outputs keep the colours of the input (`keep`), or are converted to sRGB (`srgb`)."""
    gain_map: GainMap
    """Whether the gain map of an Ultra HDR photo is processed along (`keep`), or dropped (`drop`)."""
    include: str | Iterable[str]
    """Patterns of the names to process; by default all names with an image suffix."""
    exclude: str | Iterable[str]
    """Patterns of the names not to process. One pattern may be given as a text."""
    files: Iterable[str] | None
    """Names of the files to process, relative to the source; None: all of them."""
    newer_than: datetime | str | float
    """Process only files that were changed after this time: a datetime, seconds since the epoch, or a text
    such as `2026-11-01` or `7d`; 0: all of them."""
    prune: bool
    """Before the run, remove the outputs whose inputs are gone from the source: only those that imageloom
    made and that nobody has changed since."""
    adopt: bool
    """If the ledger was lost: an existing file with the bytes of an output becomes imageloom's again."""
    shard: str | None
    """Process only this share of the items, such as `3/16`: runs of the other shards may work at the same time."""
    if_exists: IfExists
    """What to do if an output's name is taken by a file that imageloom did not make: `error`, `skip` or
    `overwrite`."""
    retry_failed: bool
    """Process only the items that failed in an earlier run."""
    memory: int
    """Maximum memory of all items in progress together, in bytes; 0: half of the machine's memory."""
    name: str
    """Template of the output names, relative to the sink: `{dir}/{stem}.{ext}`."""
    in_place: bool
    """Replace each input by its output; source and sink are the same folder."""
    tile: Literal["auto", "always", "never"]
    """Whether images are processed in tiles; the outputs are the same."""
    items_at_once: int
    """Maximum number of images in progress; 0: as many as memory and workers allow."""
    scratch: str | os.PathLike[str]
    """Folder for temporary pixel files of large images; by default inside the sink, if that is local."""
    in_flight: int
    """Number of requests in flight to remote storage; 0: tuned automatically."""
    links: Links
    """Which symbolic links in a local source are read: all (`follow`), those that point inside the source
    (`inside`), or none (`refuse`). Any other link is a failed item."""
    durable: bool | None
    """Flush outputs and ledger to the disk, so that a power cut loses no image that is recorded as done;
    None: only with `in_place`."""
    sandbox: SandboxMode
    """Decode images and run operators in processes that can do nothing else: with the restrictions that the
    kernel has, except for formats with well-tested decoders if all operators are imageloom's own (`auto`, the
    default); always, and only if the kernel has all restrictions (`require`); or never (`off`)."""
    untrusted: bool
    """The images may be hostile: each one is processed in a new sandboxed process."""
    limits: Limits
    """Limits that are checked against an image's header, before it is decoded."""
    ledger: str | os.PathLike[str] | None
    """Path of the ledger; None: the ledger in the user's state directory."""
    timeline: bool
    """Record the measurements for `imageloom report`."""
    manifest: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
    """Paths of files to write when the job ends: which outputs each image has, as `.json`, or as `.html` with
    `<picture>` elements."""
    sizes: str
    """How wide pictures are shown, as in the attribute `sizes` of HTML, for `manifest`."""
    progress: bool
    """Show a progress bar: in a notebook, or on stderr."""
    listeners: Iterable[Listener]
    """Functions that are called with each event, in the thread that runs the job."""


DEFAULTS = Options(
    engine="auto",
    connect="",
    jobs=0,
    threads=1,
    timeout=600.0,
    bind="",
    keys="",
    format=None,
    quality=None,
    subsampling=None,
    max_bytes=0,
    lossless=False,
    progressive=False,
    effort=None,
    only_if_smaller=False,
    widths=(),
    formats=(),
    decode="safe",
    damage="warn",
    metadata="keep",
    pages="first",
    density=0,
    colors="keep",
    gain_map="keep",
    include=(),
    exclude=(),
    files=None,
    newer_than=0.0,
    prune=False,
    adopt=False,
    shard=None,
    if_exists="error",
    retry_failed=False,
    memory=0,
    name="{dir}/{stem}.{ext}",
    in_place=False,
    tile="auto",
    items_at_once=0,
    scratch="",
    in_flight=0,
    links="follow",
    durable=None,
    sandbox="auto",
    untrusted=False,
    limits=Limits(),
    ledger=None,
    timeline=True,
    manifest=(),
    sizes="100vw",
    progress=False,
    listeners=(),
)


class Prepared(NamedTuple):
    """A job that is checked and not begun."""

    job: Job
    engine: str
    settings: Settings
    ledger: str | os.PathLike[str] | None
    timeline: bool
    progress: bool
    prune: bool
    listeners: tuple[Listener, ...]
    manifest: tuple[str, ...] = ()
    sizes: str = ""


def with_options(function: _F) -> _F:
    """Give a function that takes `**options` the signature and the help of all options."""
    found = inspect.signature(function)
    usual: Mapping[str, Any] = DEFAULTS
    parameters = [p for p in found.parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters += [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=usual[name], annotation=hint.__forward_arg__
        )
        for name, hint in Options.__annotations__.items()
    ]
    function.__signature__ = found.replace(parameters=parameters)  # type: ignore[attr-defined]
    head, mark, rest = (function.__doc__ or "").partition("        options: see `Options`.\n")
    if mark:
        function.__doc__ = head + "".join(_described()) + rest
    return function


def _described() -> Iterator[str]:
    """The options with their help, as lines of a docstring."""
    try:
        (definition,) = ast.parse(inspect.getsource(Options)).body
    except OSError:  # the program is installed without its source
        yield "        options: see `Options`.\n"
        return
    assert isinstance(definition, ast.ClassDef)
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(said))):
                sentences = said[0].lower() + " ".join(said[1:].split())
                lines = textwrap.wrap(f"{name}: {sentences}", 100, subsequent_indent="    ")
                yield from (f"        {line}\n" for line in lines)


def prepare(pipeline: object, source: object, sink: object, options: Mapping[str, Any]) -> Prepared:
    """Check all arguments, and describe the job. Nothing is read or written but files of operators.

    Raises:
        UsageError: an argument is invalid; the message names it.
    """
    for name in options:
        if name not in DEFAULTS:
            nearest = get_close_matches(name, DEFAULTS, 1)
            raise UsageError(
                f"there is no option {name!r}" + (f" (did you mean {nearest[0]}?)" if nearest else "")
            )
    given = {name: plain(value) for name, value in options.items()}
    o: dict[str, Any] = {**DEFAULTS, **given}
    for name in ("timeline", "progress", "prune", "untrusted"):
        _check(name, o[name], bool, "true or false")
    _check("engine", o["engine"], str, "the name of an engine, such as 'threads'")
    if o["untrusted"] and o["sandbox"] == "off":
        raise UsageError("untrusted=True needs a sandbox, and sandbox is 'off'")
    recipe = recipe_of(pipeline, o, DEFAULTS)
    memory, timeout = o["memory"], o["timeout"]
    asked = Settings(o["jobs"], o["threads"], timeout, memory, o["connect"], o["bind"], o["keys"])
    validated(asked)
    mode: SandboxMode = o["sandbox"]
    if not isinstance(mode, str) or mode not in typing.get_args(SandboxMode):
        raise UsageError(f"sandbox = {mode!r}: it must be {', '.join(typing.get_args(SandboxMode))}")
    scratch = address("scratch", o["scratch"])
    job = Job(
        source=address("source", source),
        sink=address("sink", sink),
        recipe=recipe,
        limits=limits_of(o["limits"]),
        include=_patterns("include", o["include"]),
        exclude=_patterns("exclude", o["exclude"]),
        if_exists=o["if_exists"],
        retry_failed=o["retry_failed"],
        memory=memory,
        name=o["name"],
        in_place=o["in_place"],
        tile=o["tile"],
        items_at_once=o["items_at_once"],
        scratch=scratch and os.path.abspath(scratch),
        in_flight=o["in_flight"],
        links=o["links"],
        durable=o["durable"],
        files=None if o["files"] is None else _names(o["files"]),
        newer_than=_moment(o["newer_than"]),
        adopt=o["adopt"],
        shard=None if o["shard"] is None else _shard(o["shard"]),
    )
    validated(job)
    box = Sandbox(mode, o["untrusted"], mode == "auto" and not o["untrusted"], timeout, memory)
    job = replace(job, sandbox=validated(box))
    ledger = o["ledger"] if o["ledger"] is None else address("ledger", o["ledger"])
    listeners = _listeners(o["listeners"])
    job = checked(job)
    if o["engine"] != "auto" and o["engine"] not in ENGINES:
        raise UsageError(f"there is no engine {o['engine']!r}; there are: auto, {', '.join(ENGINES.names())}")
    engine, settings, _ = choose_engine(o["engine"], replace(asked, sandbox=job.sandbox), job)
    check_settings(engine, settings)
    manifest = _manifests(o["manifest"])
    _check("sizes", o["sizes"], str, "a text, such as '100vw'")
    return Prepared(
        *(job, engine, settings, ledger, o["timeline"], o["progress"], o["prune"], listeners),
        manifest=manifest,
        sizes=o["sizes"],
    )


def _manifests(given: object) -> tuple[str, ...]:
    """One path, or several."""
    several = given if isinstance(given, Iterable) and not isinstance(given, (str, os.PathLike)) else [given]
    paths = tuple(address("manifest", one) for one in several)
    check_manifests(paths)
    return paths


def _check(name: str, given: object, kind: type, what: str) -> None:
    if not isinstance(given, kind):
        raise UsageError(f"{name} = {given!r}: it must be {what}")


def _patterns(what: str, given: object) -> tuple[str, ...]:
    """One pattern, or several."""
    if isinstance(given, str):
        return (given,)
    if isinstance(given, Iterable) and not isinstance(given, (bytes, bytearray, Mapping)):
        found = tuple(given)
        if all(isinstance(one, str) for one in found):
            return found
    raise UsageError(f"{what} = {given!r}: it must be a pattern such as '*.jpg', or several")


def _names(given: object) -> tuple[str, ...]:
    """Names of files in the source."""
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping)):
        found = list(given)
        if all(isinstance(text, str) for text in found):
            try:
                return checked_names(found)
            except UsageError as error:
                raise UsageError(f"files: {error}") from None
    raise UsageError(f"files = {given!r}: give several texts, such as ['a.jpg', 'sub/b.jpg']")


def _shard(given: str) -> Shard:
    if not isinstance(given, str):
        raise UsageError(f"shard = {given!r}: give a text such as '3/16'")
    return Shard.of(given)


def _moment(given: object) -> float:
    """A time in seconds since the epoch."""
    try:
        if isinstance(given, datetime):
            return given.timestamp()
        if isinstance(given, str):
            return moment(given)
        if isinstance(given, (int, float)) and not isinstance(given, bool) and isfinite(given):
            return float(given)
    except (UsageError, ValueError, OverflowError, OSError) as error:
        raise UsageError(f"newer_than = {given!r}: {error}") from None
    raise UsageError(f"newer_than = {given!r}: give a datetime, or a text such as '2026-11-01' or '7d'")


def _listeners(given: object) -> tuple[Listener, ...]:
    if isinstance(given, Iterable):
        found = tuple(given)
        if all(callable(one) for one in found):
            return found
    raise UsageError(f"listeners = {given!r}: it must be functions that take an event, in a list")
