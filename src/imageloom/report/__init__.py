"""The report of a job: figures and drawings from its records, and one HTML page that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imageloom.errors import StorageError, UsageError
from imageloom.records.ledger import Ledger
from imageloom.records.schema import JobRecord
from imageloom.records.timeline import Timeline, path_of, read

if TYPE_CHECKING:
    from imageloom.report.figures import Figures

PLOT_WIDTH = 920.0
"""Width of a drawing in a file, in pixels."""
BELONGS = 60.0
"""Maximum difference in seconds between the start of a run in the ledger and in the timeline."""


def recorded(ledger: Ledger, job: int | None) -> tuple[JobRecord, Timeline]:
    """The records of a job.

    Args:
        job: its number; None for the last job.

    Raises:
        UsageError: the ledger has no such job.
        StorageError: its timeline was not recorded, or has been deleted.
    """
    found = next((record for record in ledger.jobs() if job is None or record.id == job), None)
    if found is None:
        which = "no job yet" if job is None else f"no job {job}"
        raise UsageError(f"there is {which} in {ledger.path}")
    path = path_of(ledger.path, found.id)
    timeline = read(path) if path.exists() else None
    if timeline is None or abs(timeline.opening.began - found.started) > BELONGS:
        raise StorageError(
            f"there is no timeline of job {found.id} in {path.parent}: the job ran with --no-timeline, or its "
            "timeline was deleted because of its age"
        )
    return found, timeline


def write_page(path: Path, ledger: Ledger, job: int | None) -> None:
    """Write the report of a job as one HTML file.

    Raises:
        UsageError: the ledger has no such job.
        StorageError: its timeline cannot be read, or the file cannot be written.
    """
    from imageloom.report import page, pictures
    from imageloom.report.figures import figures

    record, timeline = recorded(ledger, job)
    found = figures(record, timeline, ledger.items(record.id, lost=True))
    text = page.to_html(
        found,
        timeline,
        pictures.samples(ledger, record, timeline),
        pictures.of_failed(record.source, found.failures),
    )
    write_file(path, text.encode())


def write_file(path: Path, data: bytes) -> None:
    """Write a file of a report.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None


def write_plots(found: Figures, timeline: Timeline, svg: Path | None, png: Path | None) -> None:
    """Write each drawing as a file into the given folders.

    Raises:
        StorageError: a folder or a file cannot be written.
    """
    from imageloom.report import charts, drawing

    made = {**charts.drawings(found, PLOT_WIDTH), "timeline": charts.timeline(found, timeline, PLOT_WIDTH)}
    for folder in (svg, png):
        if folder:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"cannot make {folder}: {error.strerror}") from None
    for name, each in made.items():
        if svg:
            write_file(svg / f"{name}.svg", drawing.to_svg(each).encode())
        if png:
            write_file(png / f"{name}.png", drawing.to_png(each))
