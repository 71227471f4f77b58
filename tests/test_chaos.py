"""Runs under faults: real kills, stops, cuts and full disks; and a verdict that does see what is wrong."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from imageloom import chaos
from imageloom.bench.samples import draw_photos
from imageloom.chaos import run_chaos
from imageloom.chaos.model import CONNECTED, WORKERS, Chaos, Report
from imageloom.chaos.processes import MARK, MarkedProcesses
from imageloom.chaos.proxy import Proxy
from imageloom.chaos.verdict import compare, left_in_memory
from imageloom.errors import StorageError
from program import draw, imageloom, wait_until

SLOW = "resize 400x400 | median_blur 31"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chaos") / "photos"
    draw_photos(folder, 30)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chaos") / "photos"
    for number in range(3):
        draw(folder / f"{number}.jpg", number)
    return folder


def survive(
    many: Path, engine: str, rates: dict[str, float], seconds: float = 3.0, pause: float = 0.5
) -> Report:
    """On a machine that is so busy that a fault finds no occasion, all goes on more slowly."""
    for slower in (1, 3, 8):
        some = {fault: rate / slower for fault, rate in rates.items()}
        enough = slower * seconds
        chaos = Chaos(SLOW, str(many), engine, some, seconds=enough, seed=1, pause=pause, patience=60)
        report = run_chaos(chaos)
        assert report.problems == ()
        if all(report.fired[fault] for fault in rates):
            break
    assert report.outputs == 30
    assert report.jobs >= 1
    assert all(report.fired[fault] for fault in rates), report.fired
    assert report.starts >= report.jobs + report.fired.get("kill-coordinator", 0)
    assert report.undisturbed > 0
    return report


@pytest.mark.timeout(300)  # on a machine where it takes more than one try
@pytest.mark.parametrize(
    ("engine", "rates"),
    [
        ("processes", {"kill-workers": 5.0, "stop-workers": 3.0}),
        ("redis", {"kill-workers": 4.0, "kill-server": 3.0}),
        ("redis", {"kill-coordinator": 1.5}),
        ("redis", {"cut": 6.0}),
        ("zeromq", {"kill-workers": 4.0}),
        ("zeromq", {"cut": 6.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_nothing_is_lost(engine: str, rates: dict[str, float], many: Path) -> None:
    survive(many, engine, rates)


def test_a_full_disk(many: Path) -> None:
    if not can_mount():
        pytest.skip("no file system may be mounted here")
    survive(many, "threads", {"fill-disk": 1.0})


def can_mount() -> bool:
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "engine", ["processes", "pipeline", "zeromq", "redis", "nodes", "mpi", "dask", "ray"]
)
def test_every_engine_for_long(engine: str, many: Path) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    gentle = engine in ("mpi", "ray")  # the death of one rank is that of all, and they start slowly
    rates = {"kill-workers": 0.2 if gentle else 1.0, "kill-coordinator": 0.05 if gentle else 0.2}
    if not gentle:
        rates["stop-workers"] = 0.3
    if engine == "redis":
        rates["kill-server"] = 0.3
    if engine in CONNECTED:
        rates["cut"] = 1.0
    survive(many, engine, rates, 60.0, 2.0)


# The verdict


def remove(sink: Path) -> None:
    (sink / "1.jpg").unlink()


def tamper(sink: Path) -> None:
    """Change one bit, and neither size nor time."""
    path = sink / "1.jpg"
    status, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def add(sink: Path) -> None:
    (sink / "1.jpg.tmp").touch()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (remove, "missing: 1.jpg"),
        (tamper, "different from serial: 1.jpg"),
        (add, "unexpected: 1.jpg.tmp"),
    ],
)
def test_what_is_spoilt_is_seen(spoil: Callable[[Path], None], problem: str, few: Path) -> None:
    asked = Chaos("invert", str(few), "threads", {"kill-coordinator": 1e-6}, seconds=0.1)
    sinks: list[str] = []

    def look(sink: Path) -> None:
        sinks.append(sink.name)
        if sink.name == "job1":
            spoil(sink)

    report = run_chaos(asked, look)
    assert report.problems == (f"job1: {problem}",)
    assert sinks == ["undisturbed", "job1"]


def test_an_undisturbed_job_is_judged_too(few: Path) -> None:
    report = run_chaos(Chaos("invert", str(few), "threads", {"kill-coordinator": 1e-6}, seconds=0.1), remove)
    assert report.problems == ("undisturbed: missing: 1.jpg",)
    assert report.jobs == 0


def test_many_names_are_counted(tmp_path: Path) -> None:
    for number in range(9):
        draw(tmp_path / "a" / f"{number}.png")
    (tmp_path / "b").mkdir()
    (problem,) = compare(tmp_path / "b", tmp_path / "a")
    assert problem == "missing: 0.png, 1.png, 2.png, 3.png, 4.png and 4 more"
    shutil.copytree(tmp_path / "a", tmp_path / "b", dirs_exist_ok=True)
    assert list(compare(tmp_path / "b", tmp_path / "a")) == []
    os.truncate(tmp_path / "b" / "1.png", 100)
    (tmp_path / "b" / ".imageloom").mkdir()
    assert list(compare(tmp_path / "b", tmp_path / "a")) == [
        "different from serial: 1.png",
        "unexpected: .imageloom/",
    ]


LEAVES = """
import os, subprocess
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
import numpy as np
from imageloom import Pixels, operator

KEPT = []

@operator("point", examples=())
def leave_behind(image: Pixels) -> Pixels:
    \"\"\"Leave a process and shared memory.\"\"\"
    if not KEPT:
        subprocess.Popen(["sleep", "30"], start_new_session=True, stdout=subprocess.DEVNULL)
        KEPT.append(SharedMemory(f"{NAME}-{os.getpid()}", create=True, size=4096))
        resource_tracker.unregister(KEPT[0]._name, "shared_memory")
    return image
"""


def test_a_process_and_memory_that_are_left_are_seen(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chaos, "END_TIMEOUT", 0.2)
    monkeypatch.setattr(chaos, "PERIOD", 0.05)
    name = f"imageloom-test-{os.getpid()}"
    (tmp_path / "leaves.py").write_text(f"NAME = {name!r}\n{LEAVES}")
    flags = ("--operators", str(tmp_path / "leaves.py"), "--sandbox", "off")
    asked = Chaos(
        f"leave_behind | {SLOW}", str(many), "processes", {"kill-workers": 1e-6}, seconds=0.1, flags=flags
    )
    try:
        report = run_chaos(asked)
    finally:
        made = list(Path("/dev/shm").glob(f"{name}-*"))
        for path in made:
            path.unlink()
    left = [problem for problem in report.problems if problem.startswith("a process is left")]
    assert len(left) == len([p for p in left if "sleep 30" in p]) > 0
    memory = [
        problem for problem in report.problems if problem.startswith("shared memory is left: /dev/shm/")
    ]
    assert len(memory) >= 1
    assert len(left) + len(memory) == len(report.problems)
    pids = [int(problem.split()[4]) for problem in left]
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in pids))
    seen = {problem.partition(": ")[2] for problem in memory}
    assert seen <= {str(path) for path in made}
    assert list(left_in_memory(seen)) == []


def test_a_job_that_fails_by_itself_is_no_ground_to_build_on(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "1.jpg")
    (tmp_path / "photos" / "2.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(StorageError, match=r"fails even without faults.*1 failed"):
        run_chaos(Chaos("invert", str(tmp_path / "photos"), "threads", {"kill-coordinator": 1.0}))


# The command


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--engine", "serial", "--kill-workers", "1/s"], "the engine serial has no worker processes"),
        (["--engine", "threads", "--stop-workers", "1/s"], "the engine threads has no worker processes"),
        (
            ["--engine", "zeromq", "--kill-server", "1/s"],
            "the engine zeromq has no server; only redis has one",
        ),
        (
            ["--engine", "processes", "--cut", "1/s"],
            "no connections that can be cut; engines with such connections: redis, zeromq",
        ),
        (
            ["--engine", "processes"],
            "give at least one fault with a rate such as 2/s: --kill-workers, --stop-workers",
        ),
        (["--engine", "auto", "--cut", "1/s"], "there is no engine 'auto'; there are: serial"),
        (["--engine", "redis", "--cut", "often"], "'often' is not a rate, such as 2/s"),
        (["--engine", "redis", "--cut", "0/s"], "'0/s' is not a rate"),
    ],
)
def test_what_makes_no_sense_is_refused(flags: list[str], reason: str, few: Path) -> None:
    done = imageloom("chaos", "invert", few, *flags)
    assert done.returncode == 2
    assert reason in done.stderr


def test_the_command_says_what_it_did(few: Path) -> None:
    flags = ["--engine", "processes", "--kill-workers", "1200/min", "--for", "3", "--", "--quality", "70"]
    done = imageloom("chaos", "invert", few, *flags)
    assert done.returncode == 0, done.stderr
    assert "jobs of 3 outputs" in done.stdout
    assert "all checks passed: all outputs exist" in done.stdout
    done = imageloom("chaos", "invert", few, "--json", *flags)
    said = msgspec.json.decode(done.stdout)
    assert (said["engine"], said["outputs"], said["problems"]) == ("processes", 3, [])
    assert set(said["fired"]) == {"kill-workers"}
    assert said["cost"] > 0


def test_a_fault_that_never_happened_is_not_tested(few: Path) -> None:
    flags = ["--engine", "threads", "--kill-coordinator", "0.000001/s", "--for", "0.1"]
    done = imageloom("chaos", "invert", few, *flags)
    assert done.returncode == 1
    assert "not tested: kill-coordinator never happened; give a higher rate" in done.stderr
    assert "all checks passed" not in done.stdout


def test_every_engine_with_processes_has_its_workers_named() -> None:
    from imageloom.engines import ENGINES

    assert set(WORKERS) == set(ENGINES.built_in) - {"serial", "threads"}


# What it is made of


def test_a_proxy_passes_on_and_cuts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as behind:
        threading.Thread(target=echo, args=(behind,), daemon=True).start()
        for address in (("127.0.0.1", 0), str(tmp_path / "socket")):
            proxy = Proxy(address, behind.getsockname())
            assert not proxy.cut(Random(0)), "there is nothing to cut"
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            with socket.socket(family) as client:
                client.settimeout(10)
                client.connect(proxy.address)
                data = os.urandom(1 << 20)
                threading.Thread(target=client.sendall, args=(data,), daemon=True).start()
                found = b""
                while len(found) < len(data):
                    found += client.recv(1 << 16)
                assert found == data
                assert proxy.cut(Random(0))
                with contextlib.suppress(ConnectionResetError):
                    assert client.recv(1) == b""
            proxy.close()
            with socket.socket(family) as client, pytest.raises(OSError, match=r"refused|No such file"):
                client.connect(proxy.address)


def echo(behind: socket.socket) -> None:
    for _ in range(2):
        with behind.accept()[0] as client:
            try:
                while data := client.recv(1 << 16):
                    client.sendall(data)
            except OSError:
                pass


def test_orphans_are_of_the_herd(tmp_path: Path) -> None:
    """A grandchild whose parent is gone is found by its mark, or by where it is, and nobody else is."""
    processes = MarkedProcesses("a mark", str(tmp_path))
    assert processes.members() == {}
    code = "import subprocess; subprocess.Popen(['sleep', '60'])"
    marked = {**os.environ, MARK: "a mark"}
    for place, environment in ((None, marked), (str(tmp_path), None)):
        subprocess.run([sys.executable, "-c", code], check=True, cwd=place, env=environment, timeout=60)
    found = processes.members()
    assert [one.words.strip() for one in found.values()] == ["sleep 60", "sleep 60"]
    assert os.getpid() not in found
    processes.kill_all()
    wait_until(lambda: not processes.members())


def test_faults_are_the_seeds(few: Path) -> None:
    """When they are due follows from the seed alone."""
    from imageloom.chaos.injector import Injector
    from imageloom.chaos.site import Site

    seen: list[int] = []

    def times(seed: int) -> list[float]:
        asked = Chaos("invert", str(few), "processes", {"kill-workers": 2.0}, seed=seed)
        injector = Injector(
            asked, MarkedProcesses("x", str(few)), Site(str(few.parent / f"site{seed}{len(seen)}"), {}), bool
        )
        seen.append(seed)
        return [injector._wait("kill-workers") for _ in range(1000)]

    first = times(1)
    assert first == times(1) != times(2)
    assert 0.45 < sum(first) / 1000 < 0.55, "twice in a second, on the average"
