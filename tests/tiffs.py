"""What the tests of TIFF share: files of tifffile, and a folder of them through whole runs, whole and in tiles."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile

from imageloom import process
from imageloom.model import Pixels
from imageloom.records.events import Done, Event, Failed
from imageloom.tiling import assemble

TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "2I", 7: "B", 12: "d"}


def tiff(image: Any, **options: Any) -> bytes:
    """A file by tifffile, without its own description unless asked for."""
    file = io.BytesIO()
    tifffile.imwrite(file, image, **{"metadata": None, **options})
    return file.getvalue()


class Ran(NamedTuple):
    """What became of a folder of files."""

    made: dict[str, bytes]
    dropped: dict[str, tuple[str, ...]]
    failed: dict[str, str]

    def pixels(self, name: str) -> Pixels:
        return tifffile.imread(io.BytesIO(self.made[name]))

    def tags(self, name: str) -> dict[int, Any]:
        with tifffile.TiffFile(io.BytesIO(self.made[name])) as file:
            return {tag.code: tag.value for tag in file.pages.first.tags}


def run(folder: Path, files: dict[str, bytes], pipeline: str, **options: Any) -> Ran:
    """The files through two runs, whole and in tiles of about 1,000 pixels, which must give the same."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name, data in files.items():
        (source / name).write_bytes(data)
    runs = []
    for tile in ("never", "always"):
        dropped: dict[str, tuple[str, ...]] = {}
        failed: dict[str, str] = {}

        def listen(event: Event, dropped: Any = dropped, failed: Any = failed) -> None:
            if isinstance(event, Done):
                dropped[event.result.key] = event.result.dropped
            elif isinstance(event, Failed) and event.result.failure:
                failure = event.result.failure
                failed[event.result.key] = f"{failure.kind}: {failure.message}"

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assemble, "PART_PIXELS", 1000)
            process(
                pipeline,
                source,
                folder / tile,
                engine="serial",
                ledger=folder / "ledger",
                tile=tile,
                listeners=[listen],
                **options,
            )
        made = {path.name: path.read_bytes() for path in (folder / tile).iterdir() if path.is_file()}
        runs.append(Ran(made, dropped, failed))
    whole, tiled = runs
    assert whole.dropped == tiled.dropped
    assert whole.failed == tiled.failed
    assert whole.made == tiled.made
    return whole


def ramp(height: int = 48, width: int = 64, top: int = 255, dtype: str = "uint8") -> Pixels:
    y, x = np.mgrid[0:height, 0:width]
    image: Pixels = ((x * 3 + y * 5) % (top + 1)).astype(dtype)
    return image
