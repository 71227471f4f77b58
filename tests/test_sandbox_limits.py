"""What a sandboxed process has and leaves, the same outputs with and without it, and replies that lie."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from imageloom.api import process
from imageloom.errors import InvalidResult, UsageError
from imageloom.model import Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.records.events import Event, Failed
from imageloom.system import confinement, landlock
from imageloom.system.exits import cause_of
from imageloom.system.sandbox import Sandbox
from imageloom.worker.sandbox import Child, Children, check, group
from imageloom.worker.shared import (
    DESCRIBED,
    MOST_DESCRIBED,
    MOST_ITEMS,
    START,
    Description,
    Encoded,
    SharedMemory,
)
from imageloom.worker.zygote import Fork
from program import contents, draw, imageloom, start, wait_until

MEMORY = """
from imageloom.operators import operator
SEEN = []
@operator("point", examples=("remember",))
def remember(image):
    if SEEN:
        raise ValueError("the pixels of another item are here")
    SEEN.append(image)
    return image
@operator("point", examples=("hang",))
def hang(image):
    import time
    time.sleep(600)
@operator("point", examples=("descriptors",))
def descriptors(image):
    import os
    found = set()
    for number in range(200):
        try:
            found.add(os.fstat(number) and number)
        except OSError:
            pass
    assert found == {0, 1, 2, 3, 4, 5}, found
    assert os.fstat(5).st_ino == os.fstat(4).st_ino  # Python maps a duplicate of the memory's descriptor
    return image
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(3):
        draw(tmp_path / "photos" / f"{number}.{'png' if number % 2 else 'jpg'}", number, 60, 40)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("operators") / "own.py"
    path.write_text(MEMORY)
    return path


def run(
    photos: Path, out: Path, outputs: tuple[Output, ...], operators: tuple[str, ...] = (), **options: Any
) -> list[str]:
    """The messages of the items that failed."""
    events: list[Event] = []
    recipe = Recipe(outputs, operators=operators)
    options = {"sandbox": "auto"} | options
    process(recipe, photos, out, ledger=out.with_suffix(".db"), listeners=[events.append], **options)
    return [one.result.failure.message for one in events if isinstance(one, Failed) and one.result.failure]


def own(text: str, operators: Path, photos: Path, out: Path, **options: Any) -> list[str]:
    from imageloom.recipes.recipe import with_operators

    loaded = with_operators(Recipe(()), [str(operators)])
    return run(photos, out, (Output(Pipeline(text).steps),), loaded.operators, **options)


def test_untrusted_items_have_a_new_process_each(photos: Path, operators: Path, tmp_path: Path) -> None:
    reused = own("remember", operators, photos, tmp_path / "reused", engine="processes", jobs=1)
    assert len(reused) == 2, "a process is used again for items of the same job"
    fresh = own("remember", operators, photos, tmp_path / "fresh", engine="processes", jobs=1, untrusted=True)
    assert fresh == []


def test_it_has_two_descriptors(photos: Path, operators: Path, tmp_path: Path) -> None:
    assert own("descriptors", operators, photos, tmp_path / "out", engine="threads", jobs=2) == []


@pytest.mark.parametrize("engine", [pytest.param("threads", marks=pytest.mark.long), "processes"])
def test_outputs_are_the_same(engine: str, photos: Path, tmp_path: Path) -> None:
    names = ("jpeg", "png", "webp", "tiff", "bmp", "pnm", "avif", "zarr")
    made = [Output(Pipeline("resize 30x20").steps, folder=name, format=name) for name in names]
    modes: dict[str, dict[str, Any]] = {
        "off": {"sandbox": "off"},
        "auto": {"sandbox": "auto"},
        "untrusted": {"untrusted": True},
    }
    for name, options in modes.items():
        assert run(photos, tmp_path / name, tuple(made), engine=engine, jobs=2, **options) == []
    found = [contents(tmp_path / name) for name in modes]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("engine", "least"), [pytest.param("threads", 2, marks=pytest.mark.long), ("processes", 5)]
)
def test_nothing_is_left_of_a_killed_run(
    engine: str, least: int, photos: Path, operators: Path, tmp_path: Path
) -> None:
    """`least` is the number of processes with the one that hangs."""
    command = ["run", "hang", photos, tmp_path / "out", "--operators", operators, "--engine", engine]
    command += ["--sandbox", "auto"]
    with start(*command, "-j", 1, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        root = psutil.Process(running.pid)
        try:
            wait_until(lambda: len(root.children(recursive=True)) >= least)
            below = root.children(recursive=True)
        finally:
            running.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(map(_lives, below)))


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_it_has_no_credentials_in_its_memory() -> None:
    """Neither in the environment of its start, nor in freed memory."""
    code = """
import os, re, sys
from imageloom.system.confinement import wipe_environment
needle = sys.argv[1][::-1].encode()
def found():
    count = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb") as memory:
        for line in maps.readlines():
            area = re.match(r"(\\w+)-(\\w+) rw", line)
            if area:
                memory.seek(int(area[1], 16))
                data = memory.read(int(area[2], 16) - int(area[1], 16))
                count += data.count(b"SECRET_KEY=" + needle) + data.count(b"prefix-" + needle)
                del data
    return count
if sys.argv[2] == "wiped":
    wipe_environment()
    assert "SECRET_KEY" not in os.environ and "PATH" in os.environ
print(found())
"""
    secret = "prefix-" + os.urandom(16).hex()
    environment = os.environ | {"SECRET_KEY": secret}
    command = [sys.executable, "-c", code, secret.removeprefix("prefix-")[::-1]]
    found = []
    for how in ("wiped", "not"):
        done = subprocess.run(
            [*command, how], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        found.append(int(done.stdout))
    assert found[0] == 0 < found[1]


def test_required_means_all_of_it(monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path) -> None:
    if not confinement.missing():
        check(Sandbox("require"))
    monkeypatch.setattr(landlock, "version", lambda: 0)
    check(Sandbox("auto"))
    with pytest.raises(UsageError, match="no Landlock"):
        check(Sandbox("require"))
    with pytest.raises(UsageError, match="no Landlock"):
        run(photos, tmp_path / "out", (Output(()),), sandbox="require")
    with pytest.raises(UsageError, match="untrusted"):
        run(photos, tmp_path / "out", (Output(()),), sandbox="off", untrusted=True)


def test_the_state_is_said(photos: Path) -> None:
    said = imageloom("doctor", "--sandbox").stdout
    assert confinement.state() in said
    calls, paths = (
        [line.split(None, 1)[1] for line in said.splitlines() if line.startswith(what)]
        for what in ("call", "path")
    )
    assert calls == confinement.calls()
    assert "openat" in calls
    assert any(one.startswith("clone: threads") for one in calls)
    assert not {"execve", "socket", "ptrace", "fork", "mount"} & {one.partition(":")[0] for one in calls}
    assert os.path.dirname(os.__file__) in paths
    assert not {"/", "/proc", "/tmp", str(Path.home()), str(Path.cwd())} & set(paths)
    assert "sandbox" in imageloom("plan", "invert", photos / "0.jpg").stdout
    refused = imageloom("run", "invert", photos, photos / "out", "--untrusted", "--sandbox", "off")
    assert refused.returncode == 2
    assert "--untrusted needs a sandbox" in refused.stderr


def test_the_stricter_of_two_settings_holds() -> None:
    driver = Sandbox("auto", shortcut=True, timeout=10.0, memory=5)
    assert driver.stricter(Sandbox()) == driver
    worker = Sandbox("require", untrusted=True, timeout=20.0, memory=3)
    assert driver.stricter(worker) == Sandbox("require", True, False, 10.0, 3)
    assert Sandbox().stricter(worker) == worker


# Replies that lie


class Lie:
    """The worker's side of a child, and what the child has written."""

    def __init__(self) -> None:
        self.memory = SharedMemory()
        self.child = Child.__new__(Child)
        self.child.memory = self.memory
        self.memory.count = 0

    def described(self, description: Description | bytes, at: int = START + 1000) -> None:
        packed = description if isinstance(description, bytes) else msgspec.msgpack.encode(description)
        self.memory.write(packed, at)
        self.memory.add_reply(DESCRIBED, at, len(packed), 1, 0.0, 0.0, 0.0)


LIES: dict[str, tuple[Any, ...]] = {
    "an output outside the memory": (1 << 40, 0, 0, 1, 0.0, 0.0, 0.0),
    "an output before it": (8, (1 << 64) - 4, 0, 1, 0.0, 0.0, 0.0),
    "a size that is not one": (-5, 0, 0, 1, 0.0, 0.0, 0.0),
    "a large description": (DESCRIBED, 0, MOST_DESCRIBED + 1, 1, 0.0, 0.0, 0.0),
    "a negative time": (8, START, 0, 1, -1.0, 0.0, 0.0),
    "no number": (8, START, 0, 1, float("nan"), 0.0, 0.0),
    "endless time": (8, START, 0, 1, float("inf"), 0.0, 0.0),
    "many pixels": (8, START, 0, (1 << 64) - 1, 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_numbers_that_lie_are_refused(lie: tuple[Any, ...]) -> None:
    told = Lie()
    told.memory.add_reply(*lie)
    with pytest.raises(InvalidResult):
        told.child.reply(0)


DESCRIPTIONS: dict[str, Description | bytes] = {
    "no description": b"\xc1",
    "outputs before the memory": Description((Encoded(1 << 20),)),
    "a negative size": Description((Encoded(-1),)),
    "a path upwards": Description((Encoded(files=(("../x", 1),)),)),
    "an absolute path": Description((Encoded(files=(("/x", 1),)),)),
    "an empty name": Description((Encoded(files=(("", 1),)),)),
    "a name with NUL": Description((Encoded(files=(("a\0b", 1),)),)),
}


@pytest.mark.parametrize("lie", DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_descriptions_that_lie_are_refused(lie: Description | bytes) -> None:
    told = Lie()
    told.described(lie)
    with pytest.raises(InvalidResult):
        told.child.reply(0)


def test_the_child_cannot_make_the_memory_smaller() -> None:
    memory = SharedMemory()
    with pytest.raises(PermissionError):
        os.ftruncate(memory.file, 10)
    memory.close()


def test_small_files_go_together() -> None:
    assert group([10, 10, 10]) == 3
    assert group([1 << 30, 10]) == 1
    assert group([10, 1 << 30]) == 1
    assert group([1] * 1000) == MOST_ITEMS


def test_a_cause_of_death() -> None:
    assert cause_of(-11) == "killed by SIGSEGV"
    assert cause_of(-35) == "killed by signal 35"
    assert cause_of(None) == "for an unknown reason"


def test_a_child_is_ended_once() -> None:
    """A second end would close a descriptor that another thread has opened meanwhile."""
    children = Children()
    child = children.take_for(("test",), Fork())
    assert children.end(child) == -signal.SIGKILL
    with (Path(__file__)).open("rb") as first, (Path(__file__)).open("rb") as second:
        assert children.end(child) is None
        assert first.read(1)
        assert second.read(1)
    other = children.take_for(("test",), Fork())
    assert other.process != child.process
    children.put_back(other, untrusted=False)
    children.close(children)


def test_a_killed_forking_process_is_replaced() -> None:
    """Children that were free have ended with it. One in use that is given back later is not kept."""
    children = Children()
    free, used = (children.take_for(("test",), Fork()) for _ in range(2))
    children.put_back(free, untrusted=False)
    forking = psutil.Process(free.process).parent()
    assert forking is not None
    forking.kill()
    wait_until(lambda: not psutil.pid_exists(used.process))
    other = children.take_for(("other",), Fork())
    assert free.is_closed
    assert psutil.Process(other.process).parent() != forking
    children.put_back(used, untrusted=False)
    assert used.is_closed
    assert children.end(used) is None
    children.put_back(other, untrusted=False)
    assert children.take_for(("other",), Fork()) is other
    assert children.end(other) == -signal.SIGKILL
    children.close(children)


def test_a_forking_process_that_is_killed_before_its_first_child_is_replaced() -> None:
    children = Children()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    children.use(ours)
    child = children.take_for(("test",), Fork())
    assert children.end(child) == -signal.SIGKILL
    children.close(children)
