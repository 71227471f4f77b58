"""The stages of a part of a large image in a worker: one tile of a phase, or the encoding of the whole output.

The plan, the phases and the encoder are derived from the file's header and the recipe, so a part contains only its
position. Its pixels are read from the file or a raster, and written to a raster, or to the sink as compressed
pieces.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from imageloom import codecs
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA
from imageloom.colours.bound import bound
from imageloom.errors import UnreadableItem
from imageloom.model import (
    Box,
    Damage,
    Format,
    Frame,
    Header,
    Item,
    Links,
    Part,
    Piece,
    Pixels,
    Result,
    Task,
    Work,
    Written,
)
from imageloom.recipes.plan import OutputPlan, make_plan
from imageloom.stores import Store, open_bounded, stage
from imageloom.stores.files import check_planned, write_file
from imageloom.stores.local import LocalStore
from imageloom.stores.names import new_token
from imageloom.system.beneath import READ, open_beneath, path_of
from imageloom.tiling import tiles
from imageloom.tiling.raster import open_raster
from imageloom.tiling.readers import Reader, open_reader
from imageloom.worker import items
from imageloom.worker.items import Chunk, Lap


def is_encoding(task: Task) -> bool:
    """Whether a task is the encoding of a whole large output."""
    part, header = task.part, task.work[0].header
    if part is None or part.writes or header is None:
        return False
    plan = make_plan(header, task.recipe)
    return part.phase == len(tiles.phases(plan.outputs[part.output].steps, plan.decoded))


def fetch(task: Task, work: Work, source: Store, lap: Lap) -> bytes:
    """Returns no bytes: a part reads its input in the next stage."""
    return b""


def load(task: Task, work: Work, data: bytes, lap: Lap) -> Chunk:
    """The pixels that a part reads, from the file or a raster."""
    part = _part(task)
    header, phase = _phase(task, part)
    if phase is None:
        frame = make_plan(header, task.recipe).outputs[part.output].frame
        with contextlib.closing(open_raster(part.reads, frame, task.roots)) as raster:
            pixels = raster.read(Box.of(frame))
        metadata = NO_METADATA
        if task.recipe.metadata != "strip":
            with _File.of(task, part).opened() as file:
                metadata = codecs.metadata_of(file, header.format)
        lap("read")
        return Chunk((pixels,), header, metadata)
    tile = tiles.tile(phase, part.write)
    with _reading(task, part, header, phase.frames[0]) as (read, damage):
        pixels = read(tile.read)
    lap("decode" if not part.reads else "read")
    return Chunk((pixels,), header, warnings=damage.warnings, profile=_profile(task, part, header, phase))


def run_filters(task: Task, chunk: Chunk, lap: Lap) -> Chunk:
    """Compute the pixels of a part's phase, and measure them."""
    part = _part(task)
    _, phase = _phase(task, part)
    if phase is None:
        return chunk
    tile = tiles.tile(phase, part.write)
    with bound(chunk.profile):
        pixels = tiles.run_tile(phase, chunk.pixels[0], tile)
    measure = tiles.pack(phase, tiles.measure_tile(phase, pixels, tile)) if phase.measured else b""
    lap("filter")
    return chunk._replace(pixels=(pixels,), measure=measure)


def finish(task: Task, work: Work, chunk: Chunk, sink: Store, lap: Lap) -> Result:
    """Write a part's pixels to its raster, or stage them compressed. The result has no times."""
    part = _part(task)
    header, phase = _phase(task, part)
    output = make_plan(header, task.recipe).outputs[part.output]
    token = f"{new_token(task.job, work.number, work.attempt)}-{_token_end(part)}"
    (pixels,) = chunk.pixels
    if phase is None:
        return _encode(task, part, chunk, sink, token, lap, output)
    if part.writes:
        with contextlib.closing(open_raster(part.writes, phase.frame, task.roots)) as raster:
            raster.write(part.write, pixels)
        lap("write")
        return Result(
            task.work[0].item.key,
            pixels=part.write.width * part.write.height,
            measure=chunk.measure,
            warnings=chunk.warnings,
        )
    return replace(_compress(task, part, token, lap, output, pixels), warnings=chunk.warnings)


def commit(task: Task, work: Work, made: Result, sink: Store, lap: Lap) -> None:
    """Commit an output that was encoded as a whole. The assembler commits pieces."""
    if not _part(task).staging:
        items.commit(task, work, made, sink, lap)


def outputs_of(task: Task, part: Part) -> tuple[tuple[str, ...], str]:
    """The names of the outputs that a part stages, and the end of their tokens."""
    names = () if part.writes or part.folder else (task.work[0].names[part.output],)
    return names, _token_end(part)


def wrong(task: Task, part: Part, result: Result) -> str | None:
    """What is wrong with a part's result except its outputs, as text; None if it is valid."""
    header, phase = _phase(task, part)
    output = make_plan(header, task.recipe).outputs[part.output]
    indices: list[int] = []
    if phase is not None and not part.writes:
        encoder = codecs.in_pieces(output.format, output.frame, output.encoding)
        assert encoder is not None, "only large outputs have pieces"
        box = part.write
        indices = list(encoder.pieces.touching(box.x0, box.y0, box.x1, box.y1))
    if [piece.index for piece in result.pieces] != indices or any(p.size < 1 for p in result.pieces):
        return "pieces are not those of this part"
    if result.pixels != (output.frame.pixels if phase is None else part.write.width * part.write.height):
        return "number of pixels is not that of the part"
    if phase is not None and phase.measured and part.writes:
        if not tiles.is_measure(phase, result.measure, part.write):
            return "measure is invalid"
    elif result.measure:
        return "measure was not requested"
    if indices and result.written and result.written[0].size != sum(piece.size for piece in result.pieces):
        return "output's size is not that of its pieces"
    return None


def _part(task: Task) -> Part:
    assert task.part is not None, "the task is of a part"
    return task.part


def _token_end(part: Part) -> str:
    return f"{part.output}-{part.phase}-{part.number}"


def _phase(task: Task, part: Part) -> tuple[Header, tiles.Phase | None]:
    """The image's header, and the part's phase with the measured parameters of its first step; None for the
    encoding."""
    header = task.work[0].header
    assert header is not None, "a part is of an image that was planned"
    plan = make_plan(header, task.recipe)
    phases = tiles.phases(plan.outputs[part.output].steps, plan.decoded)
    if part.phase == len(phases):
        return header, None
    phase = phases[part.phase]
    return header, replace(phase, steps=(part.first, *phase.steps[1:])) if part.first else phase


def _profile(task: Task, part: Part, header: Header, phase: tiles.Phase) -> bytes:
    """The colour profile of the file, if a step of the phase converts from it."""
    if not header.colours.startswith("profile") or all(step.name != "convert_from" for step in phase.steps):
        return b""
    return _profile_of(_File.of(task, part), header.format)


@lru_cache(maxsize=2)
def _profile_of(file: _File, format: Format) -> bytes:
    """It is kept for other tiles of the file."""
    with file.opened() as path:
        return codecs.metadata_of(path, format).icc


_Reading = tuple[Callable[[Box], Pixels], DamageLog]


@contextlib.contextmanager
def _reading(task: Task, part: Part, header: Header, frame: Frame) -> Iterator[_Reading]:
    """A function that reads a box of the part's input, and the damage that it finds."""
    if part.reads:
        with contextlib.closing(open_raster(part.reads, frame, task.roots)) as raster:
            yield raster.read, DamageLog()
        return
    file = _File.of(task, part)
    with file.opened():  # checks that the file is the planned one
        reader, damage = _reader(file, header, task.recipe.damage)
    yield lambda box: reader.read(box.x0, box.y0, box.x1, box.y1), damage


@lru_cache(maxsize=2)
def _reader(file: _File, header: Header, policy: Damage) -> tuple[Reader, DamageLog]:
    """An open reader, and the damage that it finds. It is kept for other tiles of the file."""
    damage = DamageLog(policy)
    with file.opened() as path:
        return open_reader(Path(path), header.format, header.frame, damage), damage


class _File(NamedTuple):
    """The input file of a part, and the limits for opening it."""

    source: str
    links: Links
    source_roots: tuple[str, ...]
    roots: tuple[str, ...]
    path: str
    planned: Item

    @classmethod
    def of(cls, task: Task, part: Part) -> _File:
        planned = replace(task.work[0].item, mtime_ns=part.mtime_ns)
        return cls(task.source, task.links, task.source_roots, task.roots, part.file, planned)

    @contextlib.contextmanager
    def opened(self) -> Iterator[str]:
        """A path that refers to the open file.

        Raises:
            UnreadableItem: it cannot be opened, or it is not the planned file.
        """
        source = open_bounded(self.source, self.links, self.source_roots)
        try:
            if isinstance(source, LocalStore) and source.path(self.planned.key) == self.path:
                file = source.open(self.planned.key)
            else:
                file = open_beneath(self.path, READ, self.roots)  # a copy in the scratch
        except OSError as error:
            raise UnreadableItem(f"cannot read it: {error.strerror}") from None
        try:
            check_planned(file, self.planned)
            yield path_of(file)
        finally:
            os.close(file)


def _compress(task: Task, part: Part, token: str, lap: Lap, output: OutputPlan, pixels: Pixels) -> Result:
    """Stage the compressed pieces of the part's rows."""
    encoder = codecs.in_pieces(output.format, output.frame, output.encoding)
    assert encoder is not None, "only large outputs have pieces"
    box = part.write
    made, data = [], []
    for index in encoder.pieces.touching(box.x0, box.y0, box.x1, box.y1):
        x0, y0, x1, y1 = encoder.pieces.box(index)
        packed = encoder.compress(pixels[y0 - box.y0 : y1 - box.y0, x0 - box.x0 : x1 - box.x0])
        made.append(Piece(index, len(packed)))
        if part.folder:
            encoder.write(Path(part.folder), index, packed, task.roots)
        else:
            data.append(packed)
    lap("encode")
    if part.folder:
        return Result(task.work[0].item.key, pixels=box.width * box.height, pieces=tuple(made))
    joined = b"".join(data)
    write_file(os.path.join(part.staging, token), joined, task.roots)
    lap("write")
    written = Written(task.work[0].names[part.output], token, len(joined))
    return Result(task.work[0].item.key, (written,), pixels=box.width * box.height, pieces=tuple(made))


def _encode(
    task: Task, part: Part, chunk: Chunk, sink: Store, token: str, lap: Lap, output: OutputPlan
) -> Result:
    """Encode a whole output that is too small to be written in pieces."""
    name = task.work[0].names[part.output]
    carried = output.carried(chunk.metadata)
    encoded = codecs.encode(output.format, chunk.pixels[0], output.encoding, carried.metadata)
    lap("encode")
    size = stage(sink, token, encoded)
    lap("write")
    written = Written(name, token, size)
    return Result(task.work[0].item.key, (written,), pixels=output.frame.pixels)
