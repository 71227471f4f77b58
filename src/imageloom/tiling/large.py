"""The large images of a run: which images are processed in tiles, and which part is next."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from imageloom import codecs
from imageloom.errors import UnreadableItem
from imageloom.model import Failure, Header, Job, Part, Plain, Result, Task, Times, Work
from imageloom.recipes.plan import ENCODE_COPIES, OutputPlan, Plan
from imageloom.records.events import Listener
from imageloom.records.faults import failure_of
from imageloom.records.inprogress import InProgress
from imageloom.stores import Store
from imageloom.stores.files import check_planned
from imageloom.stores.local import LocalStore
from imageloom.stores.names import new_token
from imageloom.system.beneath import READ
from imageloom.system.machine import half_of_memory
from imageloom.tiling import assemble, tiles
from imageloom.tiling.assemble import Assembly, Original, parts_of
from imageloom.tiling.loader import FileDecoder, OpenDecoder
from imageloom.tiling.readers import IN_ORDER

TOGETHER = 2
"""Maximum number of large images in progress: one that ends and one that begins."""


HALO = 512
"""Rows and columns to add for the halo of a part, and for borders of pieces, in estimates of memory."""
LOADING = (-1, 0)
"""The key of decoding in the table of needs."""

_OF_THE_WHOLE = ("CorruptImage", "LimitExceeded", "MetadataLost", "OperatorRefused", "UnsupportedImage")
"""Failures that are those of the file or of the image as a whole, where tiles do not matter."""


class Need(Plain, frozen=True):
    """The maximum memory of one kind of part."""

    bytes: int
    what: str
    """The subject of an error message about its memory, as text."""


def needs_of(header: Header, plan: Plan, size: int) -> dict[tuple[int, int], Need]:
    """The memory of the parts of an image, by output and phase. The encoding of a whole output follows the last
    phase.

    Args:
        size: size of the file, in bytes.
    """
    needs = {LOADING: _loading(header, plan, size)}
    for number, output in enumerate(plan.outputs):
        phases = tiles.phases(output.steps, plan.decoded)
        needs |= {(number, n): _need(phases, n, output) for n in range(len(phases))}
        if codecs.in_pieces(output.format, output.frame, output.encoding) is None:
            needs[number, len(phases)] = Need(
                (1 + ENCODE_COPIES) * output.frame.bytes,
                f"encoding {output.frame} as {output.format}, which is done as a whole,",
            )
    return needs


def _loading(header: Header, plan: Plan, size: int) -> Need:
    whole = plan.luma or plan.scale > 1 or header.buffered or header.format not in IN_ORDER
    if not whole:
        return Need(0, "decoding in strips")
    return Need(
        plan.decoded.bytes + header.buffered + size,
        f"decoding {plan.decoded} from this {header.format}, which is done as a whole,",
    )


def _need(phases: tuple[tiles.Phase, ...], number: int, output: OutputPlan) -> Need:
    """The memory of a part with its halo is about four copies; of a whole image, three copies."""
    phase = phases[number]
    frame = max(phase.frames, key=lambda frame: frame.bytes)
    if phase.whole:
        return Need(3 * frame.bytes, f"a whole image of {frame} at one time, as {phase.whole},")
    box = parts_of(phases, number, output)[0]
    share = -(-frame.width * box.width // phase.frame.width)  # a wide strip is cut into pieces
    across = min(frame.width, share + HALO if share < frame.width else share)
    rows = min(frame.height, assemble.PART_PIXELS // across + HALO)
    return Need(4 * rows * across * (frame.bytes // frame.pixels), f"one tile of {across}x{rows} pixels")


class LargeImages:
    """The assemblies of a run.

    Args:
        scratch: path of the folder for rasters, and for copies of files that are not local.
        number: number of the job in the ledger.
        held: maximum size in bytes of decoded rows that wait in memory; 0 if workers do not share memory.
        wake: called in another thread when more parts may be ready.
        notes: records each image while this process decodes and assembles it.
        open_decoder: makes the decoder of each image's file.
        emit: gets an event for each tile that is done.
    """

    def __init__(
        self,
        job: Job,
        source: Store,
        sink: Store,
        scratch: str,
        number: str,
        held: int,
        wake: Callable[[], None],
        notes: InProgress,
        open_decoder: OpenDecoder = FileDecoder,
        emit: Listener = lambda event: None,
    ) -> None:
        self._job = job
        self._source = source
        self._sink = sink
        self._scratch = scratch
        self._number = number
        self._held = held // TOGETHER
        self._wake = wake
        self._notes = notes
        self._open_decoder = open_decoder
        self._emit = emit
        self._slots: dict[int, int] = {}
        self._under_way: dict[int, tuple[Assembly, dict[tuple[int, int], Need]]] = {}
        self._times: dict[int, Times] = {}
        self._copies: dict[int, str] = {}
        self._files: dict[int, int] = {}
        """Files that are open while their images are in progress."""

    @property
    def is_full(self) -> bool:
        return len(self._under_way) >= (self._job.items_at_once or TOGETHER)

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def has(self, work: Work) -> bool:
        """Whether the image is in progress. Parts of a failed image may still return."""
        return work.number in self._under_way

    def begin(self, work: Work, header: Header, plan: Plan, capacity: int) -> None:
        """Start an image.

        Raises:
            Exception: the image cannot start. Nothing of it is left then.
        """
        try:
            self._begin(work, header, plan, capacity)
        except BaseException:
            self._release(work.number)
            raise

    def _begin(self, work: Work, header: Header, plan: Plan, capacity: int) -> None:
        needs = needs_of(header, plan, work.item.size)
        self._slots[work.number] = self._notes.begin(work.item)
        path = self._source.path(work.item.path) or self._fetch(work)
        file = self._files[work.number] = self._open(work, path)
        assembly = Assembly(
            work,
            header,
            plan,
            self._job.recipe,
            Original(path, os.fstat(file).st_mtime_ns),
            self._open_decoder(file, header),
            self._sink,
            self._scratch,
            self._number,
            self._job.memory or half_of_memory(),
            capacity,
            self._held,
            self._wake,
        )
        self._under_way[work.number] = assembly, needs
        self._times[work.number] = Times()

    def _fetch(self, work: Work) -> str:
        """Copy a remote file into the scratch folder. Returns the path of the copy."""
        path = self._copies[work.number] = os.path.join(
            self._scratch, f"{new_token(self._number, work.number, work.attempt)}-file"
        )
        self._source.fetch(work.item.path, path, self._job.limits.max_file_size, work.item)
        return path

    def _open(self, work: Work, path: str) -> int:
        """Open the image's file or its copy, and check that it is the planned file."""
        try:
            if not isinstance(self._source, LocalStore):
                return os.open(path, READ)
            file = self._source.open(work.item.path)
        except OSError as error:
            raise UnreadableItem(f"cannot read it: {error.strerror}") from None
        try:
            check_planned(file, work.item)
        except UnreadableItem:
            os.close(file)
            raise
        return file

    def next_part(self) -> tuple[Work, Part, int] | tuple[Work, Result] | None:
        """A part that can be started, with its memory in bytes; or an image that failed; or None if there is
        neither."""
        for assembly, needs in list(self._under_way.values()):
            try:
                part = assembly.next_part()
                if part is not None:
                    return assembly.work, part, needs[part.output, part.phase].bytes
            except BaseException as error:
                return assembly.work, self._end(assembly, failure_of(assembly.work.item.key, error))
        return None

    def accept(self, task: Task, result: Result) -> tuple[Work, Result] | None:
        """Handle the result of a part. Returns the image's result if the image has ended, otherwise None."""
        assert task.part is not None
        number = task.work[0].number
        if number not in self._under_way:
            self._discard(result)
            return None
        assembly, _ = self._under_way[number]
        self._times[number] = _sum(self._times[number], result.times)
        failure = result.failure
        if failure is None:
            try:
                assembly.accept(task.part, result)
            except BaseException as error:
                failure = failure_of(assembly.work.item.key, error)
        if failure is None and not assembly.is_complete:
            self._emit(assembly.advanced())
            return None
        return assembly.work, self._end(assembly, failure, result.started)

    def _end(self, assembly: Assembly, failure: Failure | None, started: float = 0.0) -> Result:
        number = assembly.work.number
        del self._under_way[number]
        times = self._times.pop(number)
        if failure is not None and failure.kind in _OF_THE_WHOLE:
            failure = replace(failure, transient=False)
        elif failure is not None:
            missing = f" ({assembly.missing()})" if assembly.has_tiles else ""
            failure = replace(failure, message=failure.message + missing, transient=False)
        self._close(assembly, failed=failure is not None)
        self._release(number)
        written = () if failure else tuple(assembly.written)
        dropped, warnings = tuple(sorted(assembly.dropped)), assembly.damage.warnings
        if failure is not None:
            dropped = warnings = ()
        pixels = assembly.plan.decoded.pixels
        return Result(
            assembly.work.item.key,
            written,
            failure,
            times,
            started,
            pixels,
            dropped=dropped,
            warnings=warnings,
        )

    def _discard(self, result: Result) -> None:
        for written in result.written:
            self._sink.discard(written.staged)

    def close(self) -> None:
        """Abandon all images in progress."""
        for assembly, _ in self._under_way.values():
            self._close(assembly, failed=True)
            self._release(assembly.work.number)
        self._under_way.clear()

    def _close(self, assembly: Assembly, failed: bool) -> None:
        """Remove the scratch files of an image. An error does not change the image's result."""
        try:
            with suppress(OSError):
                assembly.close(failed)
        except BaseException as error:
            failure_of(assembly.work.item.key, error)

    def _release(self, number: int) -> None:
        """Release the resources of an image that has ended."""
        self._notes.end(self._slots.pop(number, -1))
        if (file := self._files.pop(number, None)) is not None:
            os.close(file)
        if path := self._copies.pop(number, None):
            with suppress(OSError):
                os.unlink(path)


def _sum(a: Times, b: Times) -> Times:
    return Times(*(getattr(a, field) + getattr(b, field) for field in Times.__struct_fields__))
