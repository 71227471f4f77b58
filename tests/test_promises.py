"""Each promise of docs/promises.md names the tests that fail without it; those of no other file are here."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from places import peak
from program import imageloom

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\[`(test_\w+)`\]\(\.\./([\w/.-]+\.py)\)")


def promises() -> dict[str, str]:
    """The text of each promise, by its title."""
    bullets = re.split(r"^- ", (ROOT / "docs" / "promises.md").read_text(), flags=re.M)[1:]
    found = {}
    for bullet in bullets:
        title = re.match(r"\*\*(.+?)\.\*\*", bullet)
        assert title, f"a promise begins with its title in bold: {bullet[:60]}"
        found[title[1]] = bullet
    return found


PROMISES = promises()


def test_something_is_promised() -> None:
    assert len(PROMISES) >= 6


@pytest.mark.parametrize("title", PROMISES)
def test_each_promise_names_tests_that_are_there(title: str) -> None:
    links = LINK.findall(PROMISES[title])
    assert links, "no test fails without it"
    assert len(re.findall(r"\]\(", PROMISES[title])) == len(links), "each link leads to a test"
    for name, path in links:
        tree = ast.parse((ROOT / path).read_text())
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, (
            name,
            path,
        )


@pytest.mark.parametrize(
    ("engine", "around"),
    [
        ("threads", False),
        ("processes", True),
        pytest.param("threads", True, marks=pytest.mark.long),
        pytest.param("processes", False, marks=pytest.mark.long),
    ],
)
def test_the_input_stays_as_it_was(photos: Path, out: Path, engine: str, around: bool) -> None:
    """Each file's bytes, time and mode, and what lies in each folder; the sink lies beside it or around it."""
    (photos / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (photos / "link.jpg").symlink_to("1.jpg")
    before = state_of(photos)
    sink = photos.parent if around else out
    for flags in ((), ("--if-exists", "overwrite"), ("--tile", "always"), ("--retry-failed",)):
        ran = imageloom("run", "invert", photos, sink, "--engine", engine, "-j", "2", *flags)
        assert ran.returncode in (1, 3), ran.stderr
        assert state_of(photos) == before


def state_of(folder: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else sorted(os.listdir(path))
        found[str(path)] = (content, status.st_mtime_ns, status.st_mode, status.st_uid, status.st_ino)
    return found


@pytest.mark.parametrize("step", ["gaussian_blur 3", "box_blur 5", "resize 50%", "sharpen"])
@pytest.mark.parametrize("tile", ["never", "always"])
def test_what_cannot_be_seen_does_not_bleed_into_blurs(tmp_path: Path, step: str, tile: str) -> None:
    """Green that is fully transparent beside red that is opaque: the red stays red up to the edge."""
    image = np.zeros((64, 64, 4), np.uint8)  # OpenCV's order: blue, green, red, alpha
    image[:, :32] = (0, 255, 0, 0)
    image[:, 32:] = (0, 0, 255, 255)
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "edge.png"), image)
    ran = imageloom("run", step, tmp_path / "in", tmp_path / "out", "--tile", tile)
    assert ran.returncode == 0, ran.stderr
    made = cv2.imread(str(tmp_path / "out" / "edge.png"), cv2.IMREAD_UNCHANGED)
    assert made is not None
    assert made.shape[2] == 4
    seen = made[made[:, :, 3] > 8]
    assert len(seen)
    assert seen[:, 1].max() <= 8
    assert seen[:, 2].min() >= 247


def test_three_thousand_images_take_the_memory_of_a_thousand(tmp_path: Path) -> None:
    """But for what a thousand do not fill yet. A driver that kept each result would take 2.4 MB more."""
    assert peak(3000, tmp_path) < peak(1000, tmp_path) + 1_400_000
