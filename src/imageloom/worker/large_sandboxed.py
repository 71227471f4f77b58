"""What a decoding process does for large images: questions about its file, and parts."""

from __future__ import annotations

import msgspec
import numpy as np

from imageloom import codecs
from imageloom.codecs.metadata import NO_METADATA
from imageloom.model import Frame, Pixels, Plain, Task
from imageloom.system.beneath import path_of
from imageloom.worker import files, parts
from imageloom.worker.items import Lap

_question = msgspec.msgpack.Decoder(files.Question).decode


class AboutPart(Plain, frozen=True):
    """What was made of a part, without its bytes."""

    frame: Frame | None = None
    """The pixels for a raster; None if there are other outputs."""
    indices: tuple[int, ...] = ()
    """The indices of the compressed pieces, which are the outputs."""
    measure: bytes = b""
    warnings: tuple[str, ...] = ()


def answer(data: bytes) -> tuple[list[memoryview], int, bytes]:
    """Answer a question about the process's file."""
    found, pixels = files.answer(_question(data))
    return [] if pixels is None else [bytes_of(pixels)], 0, msgspec.msgpack.encode(found)


def compute(
    task: Task, data: bytes, lap: Lap
) -> tuple[list[bytes | memoryview | dict[str, bytes]], int, bytes]:
    """Compute a part.

    Args:
        data: the pixels that it reads; empty if it reads them from the process's file.
    """
    header = task.work[0].header
    assert header is not None, "a part is of an image that was planned"
    warnings: tuple[str, ...] = ()
    if data:
        frame = parts.input_frame(task)
        shape = files.shape_of(frame, parts.input_box(task))
        pixels: Pixels = np.frombuffer(data, frame.dtype).reshape(shape)
    else:
        reader, damage = files.opened(header, task.recipe.damage)
        pixels, warnings = parts.read(task, reader), damage.warnings
    metadata = NO_METADATA
    if parts.reads_metadata(task):
        metadata = codecs.metadata_of(path_of(files.FILE), header.format, header.page)
    lap("decode")
    chunk = parts.run_filters(task, parts.chunk_of(task, pixels, metadata, warnings), lap)
    made = parts.make(task, chunk, lap)
    if made.pixels is not None:
        about = AboutPart(Frame.of(made.pixels), measure=made.measure, warnings=made.warnings)
        return [bytes_of(made.pixels)], 0, msgspec.msgpack.encode(about)
    indices = tuple(index for index, _ in made.pieces)
    about = AboutPart(None, indices, made.measure, made.warnings)
    outputs: list[bytes | memoryview | dict[str, bytes]] = [piece for _, piece in made.pieces]
    if not made.pieces:
        outputs.append(made.encoded if isinstance(made.encoded, bytes) else dict(made.encoded))
    return outputs, 0, msgspec.msgpack.encode(about)


def bytes_of(pixels: Pixels) -> memoryview:
    """The bytes of an array."""
    return memoryview(np.ascontiguousarray(pixels).data).cast("B")
