"""What a worker does of a large image: one tile of a phase, or the encoding of the whole.

The plan, the phases and the encoder follow from the file's header and the recipe, so that a part only names
itself. Its pixels come from the file or a raster and go into a raster, or as compressed pieces into the sink.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from msgspec.structs import replace

from imageloom import codecs, tiles
from imageloom.codecs.metadata import for_output
from imageloom.model import (
    NO_METADATA,
    Box,
    Frame,
    Header,
    Part,
    Piece,
    Pixels,
    Result,
    Task,
    Written,
)
from imageloom.plan import OutputPlan, make_plan
from imageloom.raster import Raster
from imageloom.stores import Store
from imageloom.stores.local import write_file
from imageloom.streams import Reader, open_reader

Lap = Callable[[str], None]


def attempt(task: Task, part: Part, sink: Store, token: str, lap: Lap) -> Result:
    """Do a part: its result, without times.

    Args:
        token: what the part stages its bytes under.
        lap: told the name of each stage that has ended.

    Raises:
        ItemError: the file or an operator fails.
    """
    work = task.work[0]
    header = work.header
    assert header is not None, "a part is of an image that was planned"
    plan = make_plan(header, task.recipe)
    output = plan.outputs[part.output]
    phases = tiles.phases(output.steps, plan.decoded)
    if part.phase == len(phases):
        return _encode(task, part, sink, token, lap, output, header)
    phase = phases[part.phase]
    if part.first:
        phase = replace(phase, steps=(part.first, *phase.steps[1:]))
    tile = tiles.tile(phase, part.write)
    with _reading(part, work.item.fingerprint, header, phase.frames[0]) as read:
        pixels = read(tile.read)
    lap("decode" if not part.reads else "read")
    pixels = tiles.run_tile(phase, pixels, tile)
    measure = tiles.pack(phase, tiles.measure_tile(phase, pixels, tile)) if phase.measured else b""
    lap("filter")
    if part.writes:
        with contextlib.closing(Raster(part.writes, phase.frame)) as raster:
            raster.write(part.write, pixels)
        lap("write")
        return Result(work.item.key, pixels=part.write.width * part.write.height, measure=measure)
    return _compress(task, part, token, lap, output, pixels)


@contextlib.contextmanager
def _reading(part: Part, fingerprint: str, header: Header, frame: Frame) -> Iterator[Callable[[Box], Pixels]]:
    """What reads a box of the part's input."""
    if part.reads:
        with contextlib.closing(Raster(part.reads, frame)) as raster:
            yield raster.read
    else:
        reader = _reader(part.file, fingerprint, header)
        yield lambda box: reader.read(box.x0, box.y0, box.x1, box.y1)


@lru_cache(maxsize=2)
def _reader(path: str, fingerprint: str, header: Header) -> Reader:
    """An open reader, kept for the file's other tiles; a file that changes is opened anew."""
    return open_reader(Path(path), header.format, header.frame)


def _compress(task: Task, part: Part, token: str, lap: Lap, output: OutputPlan, pixels: Pixels) -> Result:
    """Stage the pieces that the part's rows make."""
    encoder = codecs.in_pieces(output.format, output.frame, output.quality)
    assert encoder is not None, "only large outputs have pieces"
    box = part.write
    made, data = [], []
    for index in encoder.pieces.touching(box.x0, box.y0, box.x1, box.y1):
        x0, y0, x1, y1 = encoder.pieces.box(index)
        packed = encoder.compress(pixels[y0 - box.y0 : y1 - box.y0, x0 - box.x0 : x1 - box.x0])
        made.append(Piece(index, len(packed)))
        data.append(packed)
    lap("encode")
    joined = b"".join(data)
    write_file(os.path.join(part.staging, token), joined)
    lap("write")
    written = Written(task.work[0].names[part.output], token, len(joined))
    return Result(task.work[0].item.key, (written,), pixels=box.width * box.height, pieces=tuple(made))


def _encode(
    task: Task,
    part: Part,
    sink: Store,
    token: str,
    lap: Lap,
    output: OutputPlan,
    header: Header,
) -> Result:
    """Encode a whole output that is too small to be written in pieces."""
    work, name = task.work[0], task.work[0].names[part.output]
    with contextlib.closing(Raster(part.reads, output.frame)) as raster:
        pixels = raster.read(Box.of(output.frame))
    metadata = NO_METADATA
    if task.recipe.metadata == "keep":
        metadata = codecs.metadata_of(part.file, header.format)
    lap("read")
    encoded = codecs.get(output.format).encode(pixels, output.quality, for_output(metadata, output.frame))
    lap("encode")
    sink.stage(token, encoded)
    sink.commit(token, name, f"{task.source}/{work.item.key}", work.replace)
    lap("write")
    return Result(work.item.key, (Written(name, token, len(encoded)),), pixels=output.frame.pixels)
