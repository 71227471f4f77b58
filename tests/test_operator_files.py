"""Each worker has the files of operators that the job was started with: others are loaded again, or refused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from imageloom import operators
from imageloom.model import Item, Limits, Output, Recipe, Step, Task, Work
from imageloom.worker.perform import perform
from program import contents, draw, imageloom

PAINT = """
from imageloom import Pixels, operator
@operator("point", examples=("paint",))
def paint(image: Pixels) -> Pixels:
    image = image.copy()
    image[:] = {value}
    return image
"""


def write(path: Path, value: int) -> Path:
    path.write_text(PAINT.format(value=value))
    return path


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Task]:
    file = str(write(tmp_path / "paint.py", 10))
    draw(tmp_path / "in/a.png")
    (tmp_path / "out/.imageloom").mkdir(parents=True)
    found = os.stat(tmp_path / "in/a.png")
    item = Item("a.png", found.st_size, found.st_mtime_ns)
    recipe = Recipe((Output((Step("paint"),)),), operators=(file,))
    digests = operators.digests_of((file,))
    work = (Work(item, ("a.png",), 1),)
    module = operators.get("paint").function.__module__
    yield Task(1, "1", str(tmp_path / "in"), str(tmp_path / "out"), recipe, Limits(), work, digests=digests)
    for forget in operators.reloaded:  # the next test has another file with an operator of this name
        forget(module)


def digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def staged(task: Task) -> bytes:
    (result,) = perform(task).results
    assert result.failure is None, result.failure
    return (Path(task.sink) / ".imageloom" / result.written[0].staged).read_bytes()


def test_a_file_that_was_edited_is_loaded_again(task: Task) -> None:
    before = staged(task)
    (file,) = task.recipe.operators
    write(Path(file), 200)
    assert staged(task) == before, "the job has what it was started with"
    edited = replace(task, digests=(digest(file),))
    after = staged(edited)
    assert after != before
    (result,) = perform(task).results
    assert result.failure is not None
    assert result.failure.kind == "TaskRefused"
    assert file in result.failure.message


def test_an_edit_that_cannot_be_loaded_leaves_nothing_half_loaded(task: Task) -> None:
    before = staged(task)
    (file,) = task.recipe.operators
    good = Path(file).read_bytes()
    Path(file).write_text("raise ValueError('not yet')")
    (result,) = perform(replace(task, digests=(digest(file),))).results
    assert result.failure is not None
    assert "not yet" in result.failure.message
    Path(file).write_bytes(good)
    assert staged(task) == before


@pytest.mark.parametrize("engine", ["processes", "zeromq", "mpi", "dask"])
def test_workers_that_start_after_an_edit_refuse_the_task(engine: str, tmp_path: Path) -> None:
    """The first item has its operator edit the file, and ends its worker: the next worker sees another file."""
    for number in range(4):
        draw(tmp_path / "in" / f"{number}.png", number)
    file = write(tmp_path / "paint.py", 10)
    marker = tmp_path / "edited"
    text = file.read_text().replace(
        "    image = image.copy()",
        f"""    import os
    from pathlib import Path
    if not Path({str(marker)!r}).exists():
        Path({str(marker)!r}).touch()
        Path({str(file)!r}).write_text(Path({str(file)!r}).read_text().replace("= 10", "= 200"))
        os._exit(1)
    image = image.copy()""",
    )
    file.write_text(text)
    out = tmp_path / "out"
    command = ["run", "paint", tmp_path / "in", out, "--operators", file, "--engine", engine, "-j", 1]
    command += ["--sandbox", "off"]  # a sandboxed operator edits no file
    ran = imageloom(*command)
    assert ran.returncode == 1, ran.stderr
    assert "differs from the one at the start of the job" in ran.stderr
    made = contents(out)
    again = imageloom(*command)
    assert again.returncode == 0, again.stderr
    assert all(contents(out)[name] != data for name, data in made.items()), "the edit means something else"
    assert len(contents(out)) == 4
