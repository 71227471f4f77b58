"""Kill -9 at any moment, run again: all is done, nothing was ever torn, nothing is left over."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imageloom import codecs
from imageloom.bench.samples import draw_photos
from imageloom.model import Encoding
from imageloom.stores.names import STAGING
from program import COMMAND, contents, draw, imageloom, kill, names, start, wait_until

PIPELINE = "resize 500x500 | gaussian_blur 3 | median_blur 7"
COUNT = 40


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill") / "photos"
    draw_photos(folder, COUNT // 2)
    draw_photos(folder / "again", COUNT - COUNT // 2)
    return folder


@pytest.fixture(scope="module")
def undisturbed(photos: Path) -> dict[str, bytes]:
    out = photos.parent / "undisturbed"
    done = imageloom("run", PIPELINE, photos, out, "--ledger", photos.parent / "undisturbed.db")
    assert done.returncode == 0, done.stderr
    made = contents(out)
    assert len(made) == COUNT
    return made


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of all temporary files; its path is short, for sockets lie in it."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def published(out: Path) -> dict[str, bytes]:
    """The files that have their final names."""
    return {key: data for key, data in contents(out).items() if not key.startswith(STAGING)}


def watch_until(count: int, process: subprocess.Popen[str], out: Path, expected: dict[str, bytes]) -> None:
    """Look at the sink again and again: what is visible is whole, as soon as it is visible."""
    seen: set[str] = set()
    while process.poll() is None and len(seen) < count:
        for folder, _, files in os.walk(out):  # unlike rglob it may lose a folder on its way
            for path in (Path(folder, name) for name in files):
                key = str(path.relative_to(out))
                if key not in seen and not key.startswith(STAGING):
                    assert path.read_bytes() == expected[key]
                    seen.add(key)


def kill_and_run_again(
    engine: str, rounds: int, photos: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    amid = 0
    for number in range(rounds):
        out = tmp_path / f"out{number}"
        command = [
            "run",
            PIPELINE,
            photos,
            out,
            "-j",
            "2",
            "--engine",
            engine,
            "--ledger",
            tmp_path / "ledger.db",
        ]
        for _ in range(random.choice([1, 1, 2])):
            process = start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            watch_until(random.randrange(COUNT // 2), process, out, undisturbed)
            time.sleep(random.uniform(0, 0.02))
            kill(process)
            there = published(out)
            assert there == {key: undisturbed[key] for key in there}
            amid += 0 < len(there) < COUNT
        again = imageloom(*command)
        assert again.returncode == 0, again.stderr
        assert f"of {COUNT} done" in again.stdout or f"all {COUNT} are up to date" in again.stdout
        assert contents(out) == undisturbed
        assert STAGING not in names(out)
        assert imageloom(*command).stdout.startswith(f"all {COUNT} are up to date")
    assert amid, "no kill came amid the work"


@pytest.mark.parametrize("engine", ["threads", "processes", "zeromq"])
def test_killed_and_run_again(
    engine: str, photos: Path, tmp_path: Path, temporary: Path, undisturbed: dict[str, bytes]
) -> None:
    kill_and_run_again(engine, 2, photos, tmp_path, undisturbed)
    wait_until(lambda: not names(temporary), 10)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["serial", "threads", "processes", "zeromq"])
def test_killed_twenty_times(
    engine: str, photos: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    kill_and_run_again(engine, 20, photos, tmp_path, undisturbed)


def two_small_and_a_large(photos: Path) -> bytes:
    """Two outputs that fit on a small disk, and one of noise that does not; the noise's file."""
    draw(photos / "1.png")
    draw(photos / "3.png")
    noise = np.random.default_rng(1).integers(0, 255, (1000, 1000, 3)).astype(np.uint8)
    data = codecs.get("png").encode(noise, Encoding(0))
    (photos / "2.png").write_bytes(data)
    return data


@pytest.mark.parametrize(
    ("sandbox", "said"), [("off", "UnwritableOutput: cannot write"), ("auto", "WorkerLost: .*File too large")]
)
def test_a_file_that_may_not_grow_fails_alone_and_leaves_nothing(
    tmp_path: Path, sandbox: str, said: str
) -> None:
    """RLIMIT_FSIZE makes the write of the large output fail half-way, as a full disk does."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    two_small_and_a_large(photos)
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 20}, {1 << 20}));"
    program = [sys.executable, "-c", limit + COMMAND[-1], "run", "invert", str(photos), str(out)]
    program += ["--sandbox", sandbox]
    ran = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1, ran.stderr
    assert re.search(f"failed: 2.png: {said}", ran.stderr), ran.stderr
    assert "Traceback" not in ran.stderr
    assert "2 of 3 done, 1 failed" in ran.stdout
    assert names(out) == ["1.png", "3.png"]
    assert imageloom("run", "invert", photos, out).returncode == 0
    assert names(out) == ["1.png", "2.png", "3.png"]


def test_a_full_disk(tmp_path: Path) -> None:
    """A sink on a file system of one megabyte, in a mount namespace of its own."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    two_small_and_a_large(photos)
    out.mkdir()
    script = f"mount -t tmpfs -o size=1m none '{out}' || exit 77; \"$@\"; code=$?; ls -A '{out}'; exit $code"
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    try:
        program = [*shell, *COMMAND, "run", "invert", str(photos), str(out), "-q"]
        ran = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        pytest.skip("there is no unshare to mount a small file system with")
    if ran.returncode == 77 or "unshare" in ran.stderr:
        pytest.skip(f"no file system may be mounted here: {ran.stderr.strip()}")
    assert ran.returncode == 1, ran.stderr
    assert "failed: 2.png: DiskFull: cannot write" in ran.stderr
    assert "No space left" in ran.stderr
    assert ran.stdout.splitlines()[1:] == ["1.png", "3.png"]
