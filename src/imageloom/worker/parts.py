"""The stages of a part of a large image in a worker: one tile of a phase, or the encoding of the whole output.

The plan, the phases and the encoder are derived from the file's header and the recipe, so a part contains only its
position. Its pixels are read from the file or a raster, and written to a raster, or to the sink as compressed
pieces.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from imageloom import codecs
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
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
from imageloom.recipes.plan import make_plan
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
    (header, _), file = _phase(task, _part(task)), _File.of(task, _part(task))
    warnings: tuple[str, ...] = ()
    pixels = stored(task)
    if pixels is None:
        with file.opened():  # checks that the file is the planned one
            reader, damage = _reader(file, header, task.recipe.damage)
        pixels, warnings = read(task, reader), damage.warnings
        lap("decode")
    metadata = _metadata(file, header.format, header.page) if reads_metadata(task) else NO_METADATA
    lap("read")
    return chunk_of(task, pixels, metadata, warnings)


def stored(task: Task) -> Pixels | None:
    """The pixels that a part reads, if they are in a raster."""
    part = _part(task)
    if not part.reads:
        return None
    with contextlib.closing(open_raster(part.reads, input_frame(task), task.roots)) as raster:
        return raster.read(input_box(task))


def read(task: Task, reader: Reader) -> Pixels:
    """The pixels that a part reads, from the file."""
    box = input_box(task)
    return reader.read(box.x0, box.y0, box.x1, box.y1)


def input_frame(task: Task) -> Frame:
    """The frame of the image that a part reads from."""
    header, phase = _phase(task, _part(task))
    if phase is None:
        return make_plan(header, task.recipe).outputs[_part(task).output].frame
    return phase.frames[0]


def output_frame(task: Task) -> Frame:
    """The frame of the image that a part writes to a raster."""
    _, phase = _phase(task, _part(task))
    assert phase is not None, "the encoding writes no raster"
    return phase.frame


def input_box(task: Task) -> Box:
    """The box of the pixels that a part reads."""
    part = _part(task)
    _, phase = _phase(task, part)
    return Box.of(input_frame(task)) if phase is None else tiles.tile(phase, part.write).read


def reads_metadata(task: Task) -> bool:
    """Whether a part needs the metadata of the file: it encodes a whole output, or converts from a profile."""
    header, phase = _phase(task, _part(task))
    if phase is None:
        return task.recipe.metadata != "strip"
    return header.colours.startswith("profile") and any(s.name == "convert_from" for s in phase.steps)


def chunk_of(task: Task, pixels: Pixels, metadata: Metadata, warnings: tuple[str, ...]) -> Chunk:
    """The chunk of a part's pixels.

    Args:
        metadata: those of the file, if `reads_metadata`.
    """
    header, phase = _phase(task, _part(task))
    if phase is None:
        return Chunk((pixels,), header, metadata)
    return Chunk((pixels,), header, warnings=warnings, profile=metadata.icc)


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


class Made(NamedTuple):
    """What was computed of a part. One of the first three is not empty."""

    pixels: Pixels | None = None
    """For the raster."""
    pieces: tuple[tuple[int, bytes], ...] = ()
    """Compressed pieces of the output, each with its index."""
    encoded: bytes | Mapping[str, bytes] = b""
    """The whole output, as of `codecs.encode`."""
    measure: bytes = b""
    warnings: tuple[str, ...] = ()


def make(task: Task, chunk: Chunk, lap: Lap) -> Made:
    """Compress a part's pixels, unless they go into a raster."""
    part = _part(task)
    header, phase = _phase(task, part)
    output = make_plan(header, task.recipe).outputs[part.output]
    (pixels,) = chunk.pixels
    if phase is None:
        carried = output.carried(chunk.metadata)
        encoded = codecs.encode(output.format, pixels, output.encoding, carried.metadata)
        lap("encode")
        return Made(encoded=encoded)
    if part.writes:
        return Made(pixels, measure=chunk.measure, warnings=chunk.warnings)
    encoder = codecs.in_pieces(output.format, output.frame, output.encoding)
    assert encoder is not None, "only large outputs have pieces"
    box, pieces = part.write, []
    for index in encoder.pieces.touching(box.x0, box.y0, box.x1, box.y1):
        x0, y0, x1, y1 = encoder.pieces.box(index)
        pieces.append((index, encoder.compress(pixels[y0 - box.y0 : y1 - box.y0, x0 - box.x0 : x1 - box.x0])))
    lap("encode")
    return Made(pieces=tuple(pieces), warnings=chunk.warnings)


def finish(task: Task, work: Work, chunk: Chunk, sink: Store, lap: Lap) -> Result:
    """Write a part's pixels to its raster, or stage them compressed. The result has no times."""
    return keep(task, make(task, chunk, lap), sink, lap)


def keep(task: Task, made: Made, sink: Store, lap: Lap) -> Result:
    """Write what was made of a part to its raster, or stage it. The result has no times."""
    part, (work,) = _part(task), task.work
    header, phase = _phase(task, part)
    output = make_plan(header, task.recipe).outputs[part.output]
    token = f"{new_token(task.job, work.number, work.attempt)}-{_token_end(part)}"
    count = part.write.width * part.write.height
    if phase is None:
        written = Written(work.names[part.output], token, stage(sink, token, made.encoded))
        lap("write")
        return Result(work.item.key, (written,), pixels=output.frame.pixels)
    if made.pixels is not None:
        with contextlib.closing(open_raster(part.writes, phase.frame, task.roots)) as raster:
            raster.write(part.write, made.pixels)
        lap("write")
        return Result(work.item.key, pixels=count, measure=made.measure, warnings=made.warnings)
    pieces = tuple(Piece(index, len(data)) for index, data in made.pieces)
    if part.folder:
        encoder = codecs.in_pieces(output.format, output.frame, output.encoding)
        assert encoder is not None, "only large outputs have pieces"
        for index, data in made.pieces:
            encoder.write(Path(part.folder), index, data, task.roots)
        lap("write")
        return Result(work.item.key, pixels=count, pieces=pieces, warnings=made.warnings)
    joined = b"".join(data for _, data in made.pieces)
    write_file(os.path.join(part.staging, token), joined, task.roots)
    lap("write")
    written = Written(work.names[part.output], token, len(joined))
    return Result(work.item.key, (written,), pixels=count, pieces=pieces, warnings=made.warnings)


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


@contextlib.contextmanager
def opened(task: Task) -> Iterator[int]:
    """The open input file of a part.

    Raises:
        UnreadableItem: it cannot be opened, or it is not the planned file.
    """
    with _File.of(task, _part(task)).opened() as file:
        yield file


@lru_cache(maxsize=2)
def _metadata(file: _File, format: Format, page: int) -> Metadata:
    """It is kept for other tiles of the file."""
    with file.opened() as found:
        return codecs.metadata_of(path_of(found), format, page)


@lru_cache(maxsize=2)
def _reader(file: _File, header: Header, policy: Damage) -> tuple[Reader, DamageLog]:
    """An open reader, and the damage that it finds. It is kept for other tiles of the file."""
    damage = DamageLog(policy)
    with file.opened() as found:
        return open_reader(Path(path_of(found)), header.format, header.frame, damage), damage


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
    def opened(self) -> Iterator[int]:
        """The open file.

        Raises:
            UnreadableItem: it cannot be opened, or it is not the planned file.
        """
        source = open_bounded(self.source, self.links, self.source_roots)
        try:
            if isinstance(source, LocalStore) and source.path(self.planned.path) == self.path:
                file = source.open(self.planned.path)
            else:
                file = open_beneath(self.path, READ, self.roots)  # a copy in the scratch
        except OSError as error:
            raise UnreadableItem(f"cannot read it: {error.strerror}") from None
        try:
            check_planned(file, self.planned)
            yield file
        finally:
            os.close(file)
