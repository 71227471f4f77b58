"""Fixtures for all tests. The user's own ledger is never touched."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from testservers.swift import Swift

from imageloom.bench.samples import draw_photos
from imageloom.worker.sandbox import children
from places import reach
from program import draw

settings.register_profile(
    "default", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


STARTERS = {
    *("subprocess", "multiprocessing", "signal", "psutil", "pexpect"),
    *("imageloom", "start", "open_engine", "EngineTests", "StoreTests"),
    *("GivenServer", "Workers", "Swift", "Watching", "site", "Case", "Server", "recipe_of", "browser"),
}
"""Names of which a module has at least one where its tests start processes or servers or send signals."""


def pytest_configure() -> None:
    """A worker beside others has a folder of its own for temporary files: programs look at what is left there."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="tests-")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    # After multiprocessing has removed its own folder from there, with -100.
    util.Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=-200)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and not STARTERS.isdisjoint(vars(item.module)):
            item.add_marker("processes")


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Two folders' contents that differ: the names and the sizes, where all bytes would hide them."""
    if op != "==" or not (isinstance(left, dict) and isinstance(right, dict)):
        return None
    if not all(isinstance(data, bytes) for data in (*left.values(), *right.values())):
        return None
    lines = [f"{len(left)} files == {len(right)} files"]
    for name in sorted(left.keys() | right.keys()):
        one, two = left.get(name), right.get(name)
        if one != two:
            sizes = ("none" if data is None else f"{len(data)} bytes" for data in (one, two))
            lines.append(f"{name}: " + " == ".join(sizes))
    return lines


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default ledger, in this process and in those that it starts, lies in the test's own folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six small JPEG photos, four of them in two folders with equal names."""
    folder = tmp_path / "photos"
    for number, key in enumerate(("1.jpg", "2.jpg", "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")):
        draw(folder / key, number)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a sink may be made."""
    return tmp_path / "out"


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More photos than all tasks in flight hold."""
    folder = tmp_path_factory.mktemp("crowd") / "photos"
    draw_photos(folder / "0", 30)
    for copy in range(1, 8):
        shutil.copytree(folder / "0", folder / str(copy), copy_function=os.link)
    return folder


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    """An object store for all tests."""
    pytest.importorskip("swift", reason="the wheel is not installed")
    with Swift(tmp_path_factory.mktemp("swift")) as swift:
        yield swift


@pytest.fixture
def s3(swift: Swift, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the S3 clients of this test."""
    reach(swift, monkeypatch)


@pytest.fixture(scope="module", autouse=True)
def _no_sandbox_is_left() -> Iterator[None]:
    """An engine in this process that was closed has ended its decoding processes."""
    yield
    gc.collect()  # engines that a test did not close
    assert children.is_idle
