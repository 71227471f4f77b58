"""The stages of an item in a worker: read, decode, filter, encode, commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from msgspec.structs import asdict

from imageloom import codecs, operators, stores
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.model import (
    STAGES,
    Frame,
    Header,
    Pixels,
    Plain,
    Result,
    Step,
    Task,
    Thing,
    Times,
    Work,
    Written,
)
from imageloom.recipes.plan import check_limits, make_plan, other_pages, refuse_losses
from imageloom.stores import Store, stage
from imageloom.stores.names import hashed, new_token

Lap = Callable[[str], None]
"""Called with the name of each stage that has ended, for `Times`."""


class Chunk(NamedTuple):
    """The data passed from one stage to the next: pixels and their description."""

    pixels: tuple[Pixels, ...]
    """The decoded pixels; after the filters, the pixels of each output."""
    header: Header
    metadata: Metadata = NO_METADATA
    measure: bytes = b""
    """The measurement of a part."""
    warnings: tuple[str, ...] = ()
    """Damage of the file that was accepted."""
    profile: bytes = b""
    """The colour profile of the file, if a step converts from it."""
    original: bytes = b""
    """The file, if outputs are compared with it."""


class Stopwatch:
    """Adds up the time of each stage, in seconds.

    Args:
        before: time that was already spent, elsewhere.
    """

    def __init__(self, before: Times | None = None) -> None:
        self._spent: dict[str, float] = asdict(before) if before else dict.fromkeys(STAGES, 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._spent[stage] += now - self._last
        self._last = now

    def skip(self) -> None:
        """Restart the current lap: the time of waiting is not counted."""
        self._last = time.perf_counter()

    def add(self, *times: tuple[str, float]) -> None:
        """Add the times of stages in another process, which has worked during the current lap."""
        for stage_, seconds in times:
            self._spent[stage_] += seconds
        self.skip()

    def times(self) -> Times:
        return Times(**self._spent)


def fetch(task: Task, work: Work, source: Store, lap: Lap) -> bytes:
    """Read an item's bytes.

    Args:
        lap: called with the name of each stage that has ended, for `Times`.

    Raises:
        ItemError: the item itself is faulty. Any other exception may be raised too, here and in the stages.
    """
    data = stores.kept.pop((task.source, work.item), None)
    if data is None:
        data = source.read(work.item.path, task.limits.max_file_size, work.item)
    lap("read")
    return data


def load(task: Task, work: Work, data: bytes, lap: Lap) -> Chunk:
    """The first stage: decode an item."""
    header = work.header
    if header is None:
        header = codecs.header_of(data, work.item.page, task.recipe.density)
        check_limits(header, task.limits, len(data))
    plan = make_plan(header, task.recipe)
    metadata, profile = NO_METADATA, b""
    if task.recipe.metadata != "strip" or plan.needs_profile:
        metadata = codecs.read_metadata(data, header.format, header.page)
    if plan.needs_profile:
        profile = metadata.icc
    if task.recipe.metadata == "strip":
        metadata = NO_METADATA
    damage = DamageLog(task.recipe.damage)
    decoded = codecs.decode(data, header, luma=plan.luma, scale=plan.scale, damage=damage)
    lap("decode")
    original = data if plan.needs_file else b""
    return Chunk((decoded,), header, metadata, b"", damage.warnings, profile, original)


def run_filters(task: Task, chunk: Chunk, lap: Lap) -> Chunk:
    """The second stage: compute the pixels of each output from the decoded pixels."""
    made: list[tuple[tuple[Step, ...], Pixels]] = [((), chunk.pixels[0])]
    plan = make_plan(chunk.header, task.recipe)
    with _profile(chunk.profile):
        most = task.limits.max_pixels
        pixels = tuple(_filter(output.steps, made, plan.decoded, most) for output in plan.outputs)
    lap("filter")
    return chunk._replace(pixels=pixels)


def _profile(icc: bytes) -> AbstractContextManager[None]:
    """In it, a step may convert from the colours of the file's profile."""
    if not icc:
        return nullcontext()
    from imageloom.colours.bound import bound  # few files need it

    return bound(icc)


class About(Plain, frozen=True):
    """What a result says of an item beside its outputs."""

    dropped: tuple[Thing, ...] = ()
    warnings: tuple[str, ...] = ()


NOTHING = About()


def encode(task: Task, chunk: Chunk, lap: Lap) -> Iterator[bytes | Mapping[str, bytes] | About]:
    """Encode the outputs, one after the other: each is a file, or a folder as of `codecs.encode`; no bytes mean
    that it is left out. Then what the result says of the item."""
    skipped = other_pages(chunk.header, task.recipe)
    dropped: set[Thing] = set()
    for output, pixels in zip(make_plan(chunk.header, task.recipe).outputs, chunk.pixels, strict=True):
        if pixels.shape[:2] != (output.frame.height, output.frame.width):
            output = output.sized(pixels)
        carried = output.carried(chunk.metadata)
        encoded = codecs.encode(output.format, pixels, output.encoding, carried.metadata)
        if output.only_if_smaller and len(encoded) >= len(chunk.original):
            encoded = chunk.original if output.equals_input else b""
        else:
            dropped |= refuse_losses(task.recipe, carried.dropped | skipped)
        lap("encode")
        yield encoded
    yield About(tuple(sorted(dropped)), chunk.warnings) if dropped or chunk.warnings else NOTHING


def finish(task: Task, work: Work, chunk: Chunk, sink: Store, lap: Lap) -> Result:
    """The third stage: encode the outputs and stage them in the sink. The result has no times."""
    pixels = make_plan(chunk.header, task.recipe).decoded.pixels
    return stage_all(task, work, encode(task, chunk, lap), pixels, sink, lap)


def stage_all(
    task: Task,
    work: Work,
    encoded: Iterable[bytes | Mapping[str, bytes] | About],
    pixels: int,
    sink: Store,
    lap: Lap,
) -> Result:
    """Stage what `encode` yields: all outputs of an item or none. The result has no times."""
    token = new_token(task.job, work.number, work.attempt)
    written: list[Written] = []
    about = NOTHING
    try:
        for place, data in enumerate(encoded):
            if isinstance(data, About):
                about = data
            elif data:
                staged = f"{token}-{place}"
                size = stage(sink, staged, data)
                name = work.names[place]
                name = hashed(name, *_bytes_of(data)) if work.hashed else name
                written.append(Written(name, staged, size))
                lap("write")
    except BaseException:
        for output in written:
            sink.discard(output.staged)
        raise
    return Result(
        work.item.key, tuple(written), pixels=pixels, dropped=about.dropped, warnings=about.warnings
    )


def _bytes_of(data: bytes | Mapping[str, bytes]) -> Iterable[bytes]:
    """The bytes of a file; or the names and bytes of a folder's files, in the order of the names."""
    if isinstance(data, Mapping):
        return (part for name in sorted(data) for part in (name.encode(), data[name]))
    return (data,)


def commit(task: Task, work: Work, made: Result, sink: Store, lap: Lap) -> None:
    """Commit the staged outputs of an item: all of them or none."""
    for output in made.written:
        sink.commit(output.staged, output.name, f"{task.source}/{work.item.key}", work.replace)
    lap("write")


def _filter(
    steps: tuple[Step, ...], made: list[tuple[tuple[Step, ...], Pixels]], decoded: Frame, most_pixels: int
) -> Pixels:
    """The pixels after the steps. The longest common prefix of steps with another output is computed only once."""
    done, pixels = max((m for m in made if m[0] == steps[: len(m[0])]), key=lambda m: len(m[0]))
    extra = operators.extra_before(steps, decoded)
    known = operators.length_before(steps)
    for at, (step, samples) in list(enumerate(zip(steps, extra, strict=True)))[len(done) :]:
        if at >= known:
            operators.checked(step, pixels, samples, most_pixels)
        pixels = operators.apply(step, pixels, samples)
    made.append((steps, pixels))
    return pixels
