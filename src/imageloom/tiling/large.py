"""The large images of a run: which images are done in tiles, and which of their parts come next."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from imageloom import codecs
from imageloom.errors import UnreadableItem
from imageloom.model import Failure, Header, Job, Part, Plain, Result, Task, Times, Work
from imageloom.recipes.plan import ENCODE_COPIES, OutputPlan, Plan
from imageloom.records.faults import failure_of
from imageloom.records.inprogress import InProgress
from imageloom.stores import Store
from imageloom.stores.files import check_planned
from imageloom.stores.local import LocalStore
from imageloom.stores.names import new_token
from imageloom.system.beneath import READ, path_of
from imageloom.system.machine import half_of_memory
from imageloom.tiling import assemble, tiles
from imageloom.tiling.assemble import Assembly, Original, parts_of
from imageloom.tiling.readers import IN_ORDER

TOGETHER = 2
"""Large images under way at one time: one that ends and one that begins."""


HALO = 512
"""Rows and columns that are counted for the halos of a part, and for borders of pieces."""
LOADING = (-1, 0)
"""The place of decoding in the table of needs."""


class Need(Plain, frozen=True):
    """The most memory that one kind of part takes."""

    bytes: int
    what: str
    """In words: the beginning of a sentence that says how much it needs."""


def needs_of(header: Header, plan: Plan, size: int) -> dict[tuple[int, int], Need]:
    """What the parts of an image need, by output and phase; after the last phase comes the encoding as a whole.

    Args:
        size: of the file, in bytes.
    """
    needs = {LOADING: _loading(header, plan, size)}
    for number, output in enumerate(plan.outputs):
        phases = tiles.phases(output.steps, plan.decoded)
        needs |= {(number, n): _need(phases, n, output) for n in range(len(phases))}
        if codecs.in_pieces(output.format, output.frame, output.quality) is None:
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
    """Of a part with the halos around it four copies, about; of a whole image three."""
    phase = phases[number]
    frame = max(phase.frames, key=lambda frame: frame.bytes)
    if phase.whole:
        return Need(3 * frame.bytes, f"a whole image of {frame} at one time, as {phase.whole},")
    box = parts_of(phases, number, output)[0]
    share = -(-frame.width * box.width // phase.frame.width)  # of a wide strip that is cut across
    across = min(frame.width, share + HALO if share < frame.width else share)
    rows = min(frame.height, assemble.PART_PIXELS // across + HALO)
    return Need(4 * rows * across * (frame.bytes // frame.pixels), f"one tile of {across}x{rows} pixels")


class LargeImages:
    """The assemblies of a run.

    Args:
        scratch: path of the folder for rasters, and for copies of files that are not local.
        number: the job's, as the ledger has it.
        held: bytes of decoded rows that may wait in memory for their parts; 0 where workers do not share it.
        wake: called from another thread when more parts may be ready.
        notes: where an image is noted as long as this process decodes and joins it.
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
    ) -> None:
        self._job = job
        self._source = source
        self._sink = sink
        self._scratch = scratch
        self._number = number
        self._held = held // TOGETHER
        self._wake = wake
        self._notes = notes
        self._slots: dict[int, int] = {}
        self._under_way: dict[int, tuple[Assembly, dict[tuple[int, int], Need]]] = {}
        self._times: dict[int, Times] = {}
        self._copies: dict[int, str] = {}
        self._files: dict[int, int] = {}
        """Open for as long as their images are under way."""

    @property
    def is_full(self) -> bool:
        return len(self._under_way) >= (self._job.items_at_once or TOGETHER)

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def has(self, work: Work) -> bool:
        """Whether the image is under way: parts of one that has failed may come back later."""
        return work.number in self._under_way

    def begin(self, work: Work, header: Header, plan: Plan, capacity: int) -> None:
        """Begin an image.

        Raises:
            Exception: whatever goes wrong; nothing of the image is left then.
        """
        try:
            self._begin(work, header, plan, capacity)
        except BaseException:
            self._release(work.number)
            raise

    def _begin(self, work: Work, header: Header, plan: Plan, capacity: int) -> None:
        needs = needs_of(header, plan, work.item.size)
        self._slots[work.number] = self._notes.begin(work.item)
        path = self._source.path(work.item.key) or self._fetch(work)
        file = self._files[work.number] = self._open(work, path)
        assembly = Assembly(
            work,
            header,
            plan,
            self._job.recipe,
            Original(path, path_of(file), os.fstat(file).st_mtime_ns),
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
        """The path of a copy of a file that is not local."""
        path = self._copies[work.number] = os.path.join(
            self._scratch, f"{new_token(self._number, work.number, work.attempt)}-file"
        )
        self._source.fetch(work.item.key, path, self._job.limits.max_file_size, work.item)
        return path

    def _open(self, work: Work, path: str) -> int:
        """The image's file, if it is the one that was planned, or the copy of it."""
        try:
            if not isinstance(self._source, LocalStore):
                return os.open(path, READ)
            file = self._source.open(work.item.key)
        except OSError as error:
            raise UnreadableItem(f"cannot read it: {error.strerror}") from None
        try:
            check_planned(file, work.item)
        except UnreadableItem:
            os.close(file)
            raise
        return file

    def next_part(self) -> tuple[Work, Part, int] | tuple[Work, Result] | None:
        """A part that can be begun, with its bytes; an image that failed; or None while there is neither."""
        for assembly, needs in list(self._under_way.values()):
            try:
                part = assembly.next_part()
                if part is not None:
                    return assembly.work, part, needs[part.output, part.phase].bytes
            except BaseException as error:
                return assembly.work, self._end(assembly, failure_of(assembly.work.item.key, error))
        return None

    def accept(self, task: Task, result: Result) -> tuple[Work, Result] | None:
        """Take in what came of a part: the image's result where it has ended with that, else None."""
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
            return None
        return assembly.work, self._end(assembly, failure, result.started)

    def _end(self, assembly: Assembly, failure: Failure | None, started: float = 0.0) -> Result:
        number = assembly.work.number
        del self._under_way[number]
        times = self._times.pop(number)
        if failure is not None:
            failure = replace(failure, message=f"{failure.message} ({assembly.missing()})", transient=False)
        self._close(assembly, failed=failure is not None)
        self._release(number)
        written = () if failure else tuple(assembly.written)
        pixels = assembly.plan.decoded.pixels
        return Result(assembly.work.item.key, written, failure, times, started, pixels)

    def _discard(self, result: Result) -> None:
        for written in result.written:
            self._sink.discard(written.staged)

    def close(self) -> None:
        """Give up what is under way."""
        for assembly, _ in self._under_way.values():
            self._close(assembly, failed=True)
            self._release(assembly.work.number)
        self._under_way.clear()

    def _close(self, assembly: Assembly, failed: bool) -> None:
        """Have an image's scratch removed. What goes wrong in that changes nothing of what came of the image."""
        try:
            with suppress(OSError):
                assembly.close(failed)
        except BaseException as error:
            failure_of(assembly.work.item.key, error)

    def _release(self, number: int) -> None:
        """Drop what is kept of an image that has ended."""
        self._notes.end(self._slots.pop(number, -1))
        if (file := self._files.pop(number, None)) is not None:
            os.close(file)
        if path := self._copies.pop(number, None):
            with suppress(OSError):
                os.unlink(path)


def _sum(a: Times, b: Times) -> Times:
    return Times(*(getattr(a, field) + getattr(b, field) for field in Times.__struct_fields__))
