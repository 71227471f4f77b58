"""Assembly of a large image: its parts, their state, and its completion.

An image passes through the phases of each output. The parts of a phase are strips of full width. A part becomes
ready when the rows that it reads are available. Parts are started in order, within a limited window. Their pixels
are written to the raster that the next phase reads, or piece by piece to the output's file. A part that is late,
duplicated or out of order is ignored. An image with a missing part is not published.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from imageloom import codecs
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA
from imageloom.codecs.piecewise.ordered import Writer
from imageloom.errors import CorruptImage, LimitExceeded, UnwritableOutput
from imageloom.model import Box, Frame, Header, Part, Recipe, Result, Step, Thing, Work, Written
from imageloom.recipes.plan import OutputPlan, Plan, other_pages, refuse_losses
from imageloom.records.events import Advanced
from imageloom.stores import Store
from imageloom.stores.files import size_within
from imageloom.stores.names import new_token
from imageloom.system import folders
from imageloom.tiling import tiles
from imageloom.tiling.loader import Decoder, Loader
from imageloom.tiling.raster import FileRaster, HeldRaster, Raster

PART_PIXELS_FROM = "IMAGELOOM_PART_PIXELS"
"""The environment variable with which `imageloom bench` tries other sizes. The result does not depend on it."""
PART_PIXELS = int(os.environ.get(PART_PIXELS_FROM) or 4_000_000)
"""Approximate number of pixels of a part: tens of milliseconds of work, tens of megabytes."""
LEAST_PIXELS = 1_000_000
"""Minimum number of pixels of a part. Parts become that small if there are too few parts for all workers."""
SHARES = 2
"""Minimum number of parts for each worker."""
LOOK_AHEAD = 3
"""Number of strips that are decoded in advance, for each worker."""


def parts_of(phases: Sequence[tiles.Phase], number: int, output: OutputPlan, workers: int = 1) -> list[Box]:
    """The box that each part of a phase writes.

    They are equal in phases of the same size, because a measurement may belong to a single tile. If a phase
    reduces the image, one row of the result corresponds to many rows of the input.
    """
    frame = phases[number].frame
    if phases[number].whole:
        return [Box.of(frame)]
    encoder = codecs.in_pieces(output.format, output.frame, output.encoding)
    across, down = (encoder.pieces.width, encoder.pieces.height) if encoder else (tiles.ALIGNED,) * 2
    alike = [one for one in phases if one.frame.is_as_large_as(frame) and not one.whole]
    most = max(one.pixels for phase in alike for one in phase.frames)
    fair = max(most // (SHARES * workers), LEAST_PIXELS)
    return list(_cut(frame, most / frame.height, across, down, min(PART_PIXELS, fair)))


class Original(NamedTuple):
    """The file of a large image."""

    path: str
    """Path of the file, or of a copy."""
    mtime_ns: int


class Assembly:
    """One large image in progress.

    Args:
        work: the item and the names of its outputs.
        source: its file.
        decoder: decodes the file; the assembly closes it.
        sink: the store in which outputs are staged.
        scratch: path of a folder for rasters.
        job: number of the job in the ledger.
        memory: memory for decoding the image as a whole, in bytes, if that turns out to be necessary.
        workers: number of parts that run at the same time.
        held: maximum size in bytes of decoded rows that wait in memory; 0 if workers do not share memory.
        wake: called in another thread when more parts may be ready.
    """

    def __init__(
        self,
        work: Work,
        header: Header,
        plan: Plan,
        recipe: Recipe,
        source: Original,
        decoder: Decoder,
        sink: Store,
        scratch: str,
        job: str,
        memory: int,
        workers: int,
        held: int,
        wake: Callable[[], None],
    ) -> None:
        self.work = work
        self.plan = plan
        self._recipe = recipe
        self._sink = sink
        self._source = source
        self._decoder = decoder
        self._prefix = new_token(job, work.number, work.attempt)
        """Prefix of the names of scratch files and staged outputs."""
        self._scratch = os.path.join(scratch, self._prefix)
        self._memory = memory
        self._workers = workers
        self._ahead = LOOK_AHEAD * workers
        """Number of parts that may be started after the first unfinished one."""
        self._metadata = NO_METADATA
        self._skipped = other_pages(header, recipe)
        self._rasters: list[Raster] = []
        self._writer: Writer | None = None
        self.written: list[Written] = []
        self.dropped: set[Thing] = set()
        """What the input has and an output lacks."""
        self.damage = DamageLog(recipe.damage)
        self._loader: Loader | None = None
        try:
            if recipe.metadata != "strip":
                self._metadata = decoder.metadata()
            self._loader = self._load(header, held, wake)
            self._begin_output(0)
        except BaseException:
            with suppress(Exception):
                self.close(failed=True)
            raise

    # Parts to start

    def _load(self, header: Header, held: int, wake: Callable[[], None]) -> Loader | None:
        """The loader that decodes the file into a raster; None if tiles are read directly from the file."""
        frame, reader = self.plan.decoded, None
        if not (self.plan.luma or self.plan.scale > 1):
            reader = self._decoder.in_pieces(self.damage)
            if reader is not None and reader.random:
                reader.close()
                return None
        needs = frame.bytes + header.buffered
        if reader is None and needs > self._memory:
            raise LimitExceeded(
                f"decoding {frame} from this {header.format}, which is done as a whole, needs {needs:,} bytes of "
                f"memory, over the limit of {self._memory:,} (--memory)"
            )
        # With one output, the rows before the window are not needed again.
        bounded = len(self.plan.outputs) == 1
        room = self._ahead * max(1, PART_PIXELS // frame.width)
        fits = room * frame.bytes <= held * frame.height
        if reader and bounded and fits and self._reads_downward():
            raster = self._keep(HeldRaster(f"{self._scratch}-input", frame))
        else:
            raster = self._raster("input", frame)
        return Loader(
            self._decoder,
            reader,
            self.plan,
            raster,
            wake,
            room if bounded else 0,
            self.damage,
            needs <= self._memory,
        )

    def _reads_downward(self) -> bool:
        """Whether the parts read the decoded rows from top to bottom."""
        output = self.plan.outputs[0]
        phases = tiles.phases(output.steps, self.plan.decoded)
        boxes = parts_of(phases, 0, output, self._workers)
        tops = [tiles.tile(phases[0], box).read.y0 for box in boxes]
        return not phases[0].whole and tops == sorted(tops)

    def _begin_output(self, output: int) -> None:
        self._output = output
        if output == len(self.plan.outputs):
            return
        self._phases = tiles.phases(self.plan.outputs[output].steps, self.plan.decoded)
        self._input = self._loader.raster if self._loader else None
        self._begin_phase(0, None)

    def _begin_phase(self, number: int, merged: object) -> None:
        self._phase = number
        self._measures: list[Any] = []
        self._done: set[int] = set()
        self._target: Raster | None = None
        self._folder = ""
        if number == len(self._phases):
            self._todo = deque([self._whole_part()])
            self._count = 1
            return
        phase = self._phases[number]
        plan = self.plan.outputs[self._output]
        is_last = number == len(self._phases) - 1
        carried = plan.carried(self._metadata)
        self.dropped |= refuse_losses(self._recipe, carried.dropped | self._skipped)
        encoder = codecs.in_pieces(plan.format, plan.frame, plan.encoding, carried.metadata)
        if encoder and is_last:
            self._token = f"{self._prefix}-{self._output}"
            path = self._sink.staging(self._token)
            self._writer = encoder.create(Path(path))
            self._folder = path if os.path.isdir(path) else ""
        else:
            self._target = self._raster(f"{self._output}-{number}", phase.frame)
        boxes = parts_of(self._phases, number, plan, self._workers)
        first: list[Step | None] = [None] * len(boxes)
        measured_phases = [phase] * len(boxes)
        if merged is not None:
            measured_phases = tiles.apply_measure(self._phases[number - 1], merged, phase, boxes)
            first = [one.steps[0] for one in measured_phases]
        self._reads = [tiles.tile(one, box).read for one, box in zip(measured_phases, boxes, strict=True)]
        self._count = len(boxes)
        self._todo = deque(
            Part(
                index,
                self._output,
                number,
                box,
                step,
                self._input.path if self._input else "",
                self._target.path if self._target else "",
                self._source.path,
                self._sink.staging(""),
                self._folder,
                self._source.mtime_ns,
            )
            for index, (box, step) in enumerate(zip(boxes, first, strict=True))
        )

    def _whole_part(self) -> Part:
        assert self._input is not None
        frame = self.plan.outputs[self._output].frame
        self._reads = [Box.of(frame)]
        path, mtime_ns = self._source
        return Part(
            0, self._output, self._phase, Box.of(frame), reads=self._input.path, file=path, mtime_ns=mtime_ns
        )

    def _raster(self, name: str, frame: Frame) -> Raster:
        return self._keep(FileRaster(f"{self._scratch}-{name}", frame, new=True))

    def _keep(self, raster: Raster) -> Raster:
        self._rasters.append(raster)
        return raster

    def next_part(self) -> Part | None:
        """The next part that can be started now; None if there is none.

        Raises:
            ItemError: the file cannot be decoded.
        """
        if self._loader:
            self._loader.check()
        if not self._todo or self._todo[0].number >= self._first_undone + self._ahead:
            return None
        if self._loader and self._input is self._loader.raster:
            self._loader.wanted(self._reads[self._todo[0].number].y1)
            if self._reads[self._todo[0].number].y1 > self._loader.rows:
                return None
        return self._todo.popleft()

    def put_back(self, part: Part) -> None:
        """Queue a part again after a failed attempt."""
        self._todo.appendleft(part)

    # Results of parts

    def accept(self, part: Part, result: Result) -> None:
        """Handle the result of a part. Duplicates are ignored.

        Raises:
            ItemError: the output cannot be written.
        """
        if (part.output, part.phase) != (self._output, self._phase) or part.number in self._done:
            return
        self.dropped.update(result.dropped)
        self.damage.add(result.warnings)
        if part.phase == len(self._phases):
            self.written.extend(result.written)
        elif self._writer is not None:
            self._write_pieces(result)
        if result.measure:
            self._measures.append(tiles.unpack(self._phases[part.phase], result.measure))
        self._done.add(part.number)
        self._forget()
        if len(self._done) == self._count:
            self._end_phase()

    def advanced(self) -> Advanced:
        """How far the image is."""
        before = sum(self._stages[: self._output])
        key, stage = self.work.item.key, before + self._phase + 1
        stages = max(stage, sum(self._stages))
        frame = self._phases[self._phase].frame if self._phase < len(self._phases) else None
        size = (frame.width, frame.height) if frame else (0, 0)
        return Advanced(key, len(self._done), self._count, stage, stages, *size)

    @cached_property
    def _stages(self) -> list[int]:
        """Number of passes over the image for each output, with the encoding if that is done as a whole."""
        return [
            len(tiles.phases(output.steps, self.plan.decoded))
            + (codecs.in_pieces(output.format, output.frame, output.encoding) is None)
            for output in self.plan.outputs
        ]

    def _write_pieces(self, result: Result) -> None:
        assert self._writer is not None
        if self._folder:
            for piece in result.pieces:
                self._writer.written(piece.index)
            return
        (staged,) = result.written
        try:
            path = self._sink.staging(staged.staged)
            with open(folders.open_file(path, os.O_RDONLY), "rb", buffering=0) as file:
                for piece in result.pieces:
                    data = file.read(piece.size)
                    if len(data) != piece.size:
                        raise CorruptImage(f"piece {piece.index} of {staged.name} is cut off")
                    self._writer.put(piece.index, data)
        except OSError as error:
            raise UnwritableOutput(f"a staged piece cannot be read: {error.strerror}") from None
        finally:
            self._sink.discard(staged.staged)

    @property
    def _first_undone(self) -> int:
        return next((i for i in range(self._count) if i not in self._done), self._count)

    def _forget(self) -> None:
        """Free the rows of the input that no further part reads."""
        first = self._first_undone
        if self._input is None or first == self._count:
            return
        top = min(read.y0 for read in self._reads[first:])
        if self._loader and self._input is self._loader.raster:
            if not self._loader.bounded or self._reads[first:] != sorted(self._reads[first:], key=_top):
                return
            self._loader.passed(top)
        self._input.forget(0, top)

    def _end_phase(self) -> None:
        if self._writer is not None:
            self._writer.close()
            size = size_within(self._sink.staging(self._token))
            self.written.append(Written(self.work.names[self._output], self._token, size))
            self._writer = None
        if self._input is not None and (self._loader is None or self._input is not self._loader.raster):
            self._rasters.remove(self._input)
            self._input.remove()
        ended = self._phase == len(self._phases) or self._target is None
        if ended:
            self._begin_output(self._output + 1)
            return
        self._input = self._target
        phase = self._phases[self._phase]
        merged = None
        if phase.measured:
            merged = self._measures[0]
            for one in self._measures[1:]:
                merged = tiles.merge(phase, [merged, one])
        self._begin_phase(self._phase + 1, merged)

    @property
    def is_complete(self) -> bool:
        return self._output == len(self.plan.outputs)

    @property
    def has_tiles(self) -> bool:
        """Whether the image is processed in several parts now, not as a whole."""
        return self._count > 1

    def missing(self) -> str:
        """A description of the unfinished parts."""
        numbers = [i for i in range(self._count) if i not in self._done]
        shown = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
        return f"{len(numbers)} of {self._count} tiles are missing in phase {self._phase + 1}: {shown}"

    def close(self, failed: bool) -> None:
        """Remove the scratch files. For a failed image, remove the staged outputs, too."""
        with ExitStack() as tidying:  # each step runs, even if another one raises
            if failed:
                for written in self.written:
                    tidying.callback(self._sink.discard, written.staged)
                if self._writer is not None:
                    tidying.callback(self._writer.abort)
            for raster in self._rasters:
                tidying.callback(raster.remove)
            tidying.callback(self._decoder.close)
            if self._loader:
                tidying.callback(self._loader.stop)
        self._rasters.clear()


def _top(box: Box) -> int:
    return box.y0


def _cut(frame: Frame, row: float, across: int, down: int, pixels: int) -> Iterator[Box]:
    """Yield the boxes of parts: strips of full width, or pieces of strips that are too large.

    Args:
        row: number of pixels to process for one row of the frame.
        across, down: width and height are multiples of these.
        pixels: approximate number of pixels to process for one part.
    """
    height = max(1, round(pixels / (row * down))) * down
    pieces = -(-row * down // PART_PIXELS)
    width = max(1, -(-frame.width // int(across * pieces))) * across
    for y in range(0, frame.height, height):
        for x in range(0, frame.width, width):
            yield Box(x, y, x + width, y + height).within(Box.of(frame))
