"""The packages in `examples/` are built and installed, found by their entry points, and pass the suites."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import imageloom as package
from imageloom import process
from program import draw, imageloom

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = ("pool", "qoi", "sqlite")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a program that finds the installed packages."""
    folder = tmp_path_factory.mktemp("packages")
    for name in NAMES:
        shutil.copytree(EXAMPLES / f"imageloom-{name}", folder / name)  # the build writes beside the sources
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(folder / "site")]
    subprocess.run([*pip, *options, *(str(folder / name) for name in NAMES)], check=True, timeout=100)
    found = (str(folder / "site"), str(Path(package.__file__).parent.parent))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(found)}


def test_they_pass_the_suites(site: dict[str, str], tmp_path: Path) -> None:
    assert {path.name for path in EXAMPLES.glob("*/")} == {f"imageloom-{name}" for name in NAMES}
    for name in NAMES:
        shutil.copy(EXAMPLES / f"imageloom-{name}" / f"test_{name}.py", tmp_path)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, tmp_path],
        check=False,
        env=site,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "skipped" not in ran.stdout


def test_a_job_uses_all_three(site: dict[str, str], tmp_path: Path) -> None:
    for number in range(3):
        draw(tmp_path / "photos" / f"{number}.png", number)
    table, back, direct = f"sqlite://{tmp_path}/small.db", tmp_path / "back", tmp_path / "direct"
    jobs = (
        ("resize 50%", tmp_path / "photos", table, "--format", "qoi", "--engine", "pool"),
        ("invert", table, back, "--format", "png", "--engine", "pool"),
    )
    for job in jobs:
        ran = imageloom("run", *job, env=site)
        assert ran.returncode == 0, ran.stderr
    process("resize 50% | invert", tmp_path / "photos", direct, engine="serial", format="png")
    found = {path.name: path.read_bytes() for path in back.iterdir()}
    assert found == {path.name: path.read_bytes() for path in direct.iterdir()}
    assert len(found) == 3
