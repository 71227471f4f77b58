"""What the tests of files share: scenes, and one file through a whole run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from imageloom import process
from imageloom.model import Pixels, Recipe, Result
from imageloom.records.events import Done, Event, Failed, Listener

IDENTITY = "flip | flip"


class Refused(Exception):
    """An item failed: its kind and its message."""


def scene(channels: int = 3, dtype: str = "uint8", width: int = 45, height: int = 31) -> Pixels:
    """Smooth enough for lossy encoders, unlike itself in every turn, and of all values in each channel."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [
        x / (width - 1),
        y / (height - 1),
        (x + 2 * y) / (width + 2 * height - 3),
        1 - x * y / (x * y).max(),
    ]
    chosen = {1: [2], 2: [2, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]
    image = np.stack([planes[i] for i in chosen], axis=2)
    if dtype == "float32":
        result: Pixels = image.astype(np.float32)
    else:
        result = np.rint(image * np.iinfo(dtype).max).astype(dtype)
    return result[:, :, 0] if channels == 1 else result


def through(
    folder: Path,
    data: bytes,
    pipeline: str | Recipe = IDENTITY,
    name: str = "image.png",
    listeners: Sequence[Listener] = (),
    **options: Any,
) -> bytes:
    """The one output of a run over a folder that holds this one file.

    Raises:
        Refused: the item failed.
    """
    source, sink = folder / "source", folder / "sink"
    source.mkdir(parents=True)
    (source / name).write_bytes(data)
    failures: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Failed) and event.result.failure:
            failures.append(f"{event.result.failure.kind}: {event.result.failure.message}")

    told = [listen, *listeners]
    process(pipeline, source, sink, engine="serial", ledger=folder / "ledger", listeners=told, **options)
    if failures:
        raise Refused(failures[0])
    (output,) = [path for path in sink.iterdir() if path.is_file()]
    return output.read_bytes()


class Ran(NamedTuple):
    """What became of one file, whole and in tiles."""

    data: bytes
    dropped: tuple[str, ...]
    warnings: tuple[str, ...]


def both_ways(folder: Path, data: bytes, pipeline: str | Recipe = IDENTITY, **options: Any) -> Ran:
    """A run over one file as a whole and in tiles: the outputs, and what is said about them, are equal.

    Raises:
        Refused: the item failed.
    """
    results: list[Ran] = []
    for tile in ("never", "always"):
        said: list[Result] = []

        def listen(event: Event, said: list[Result] = said) -> None:
            if isinstance(event, Done):
                said.append(event.result)

        written = through(folder / tile, data, pipeline, listeners=[listen], tile=tile, **options)
        results.append(Ran(written, said[0].dropped, said[0].warnings))
    assert results[0] == results[1]
    return results[0]


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
