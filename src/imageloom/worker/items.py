"""The stages of an item in a worker: read, decode, filter, encode, commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from imageloom import codecs, operators, stores
from imageloom.codecs.adapt import refuse_losses
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.colours.bound import bound
from imageloom.model import Frame, Header, Pixels, Result, Step, Task, Thing, Work, Written
from imageloom.recipes.plan import check_limits, make_plan
from imageloom.stores import Store, stage
from imageloom.stores.names import new_token

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


def fetch(task: Task, work: Work, source: Store, lap: Lap) -> bytes:
    """Read an item's bytes.

    Args:
        lap: called with the name of each stage that has ended, for `Times`.

    Raises:
        ItemError: the item itself is faulty. Any other exception may be raised too, here and in the stages.
    """
    data = stores.kept.pop((task.source, work.item.key, work.item.fingerprint), None)
    if data is None:
        data = source.read(work.item.key, task.limits.max_file_size, work.item)
    lap("read")
    return data


def load(task: Task, work: Work, data: bytes, lap: Lap) -> Chunk:
    """The first stage: decode an item."""
    header = work.header
    if header is None:
        header = codecs.header_of(data)
        check_limits(header, task.limits, len(data))
    plan = make_plan(header, task.recipe)
    metadata, profile = NO_METADATA, b""
    if task.recipe.metadata != "strip" or plan.needs_profile:
        metadata = codecs.read_metadata(data, header.format)
    if plan.needs_profile:
        profile = metadata.icc
    if task.recipe.metadata == "strip":
        metadata = NO_METADATA
    damage = DamageLog(task.recipe.damage)
    decoded = codecs.decode(data, header, luma=plan.luma, scale=plan.scale, damage=damage)
    lap("decode")
    return Chunk((decoded,), header, metadata, warnings=damage.warnings, profile=profile)


def run_filters(task: Task, chunk: Chunk, lap: Lap) -> Chunk:
    """The second stage: compute the pixels of each output from the decoded pixels."""
    made: list[tuple[tuple[Step, ...], Pixels]] = [((), chunk.pixels[0])]
    plan = make_plan(chunk.header, task.recipe)
    with bound(chunk.profile):
        pixels = tuple(_filter(output.steps, made, plan.decoded) for output in plan.outputs)
    lap("filter")
    return chunk._replace(pixels=pixels)


def finish(task: Task, work: Work, chunk: Chunk, sink: Store, lap: Lap) -> Result:
    """The third stage: encode the outputs and stage them in the sink. The result has no times."""
    token = new_token(task.job, work.number, work.attempt)
    plan = make_plan(chunk.header, task.recipe)
    written: list[Written] = []
    dropped: set[Thing] = set()
    try:
        for name, output, pixels in zip(work.names, plan.outputs, chunk.pixels, strict=True):
            carried = output.carried(chunk.metadata)
            dropped |= refuse_losses(task.recipe, carried.dropped)
            encoded = codecs.encode(output.format, pixels, output.encoding, carried.metadata)
            lap("encode")
            size = stage(sink, f"{token}-{len(written)}", encoded)
            written.append(Written(name, f"{token}-{len(written)}", size))
            lap("write")
    except BaseException:
        for output_ in written:
            sink.discard(output_.staged)
        raise
    return Result(
        work.item.key,
        tuple(written),
        pixels=plan.decoded.pixels,
        dropped=tuple(sorted(dropped)),
        warnings=chunk.warnings,
    )


def commit(task: Task, work: Work, made: Result, sink: Store, lap: Lap) -> None:
    """Commit the staged outputs of an item: all of them or none."""
    for output in made.written:
        sink.commit(output.staged, output.name, f"{task.source}/{work.item.key}", work.replace)
    lap("write")


def _filter(steps: tuple[Step, ...], made: list[tuple[tuple[Step, ...], Pixels]], decoded: Frame) -> Pixels:
    """The pixels after the steps. The longest common prefix of steps with another output is computed only once."""
    done, pixels = max((m for m in made if m[0] == steps[: len(m[0])]), key=lambda m: len(m[0]))
    extra = operators.extra_before(steps, decoded)
    for step, samples in list(zip(steps, extra, strict=True))[len(done) :]:
        pixels = operators.apply(step, pixels, samples)
    made.append((steps, pixels))
    return pixels
