"""The commands of the guides work as they are written, one after the other."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import cv2
import pytest

from imageloom.bench.samples import draw_photo
from program import draw, imageloom

GUIDES = Path(__file__).parent.parent / "docs" / "guides"
BLOCK = re.compile(r"^ *```(\w+) ?(\S*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def photos(folder: Path) -> None:
    for number in range(3):
        draw(folder / f"photos/{number}.jpg", number, 240, 180)


def shoot(folder: Path) -> None:
    for name in ("one.jpg", "two.png", "drafts/three.jpg"):
        draw(folder / "shoot" / name, 1, 240, 180)
    whole = draw(folder / "shoot/cut.jpg", 2, 240, 180).read_bytes()
    (folder / "shoot/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "shoot/notes.txt").write_text("not an image")


def scan(folder: Path) -> None:
    pixels = cv2.cvtColor(draw_photo(3, 1600, 1200), cv2.COLOR_RGB2BGR)
    assert cv2.imwrite(str(folder / "scan.tif"), pixels)


def shop(folder: Path) -> None:
    for number in range(2):
        draw(folder / f"products/{number}.jpg", number, 260, 200)
    draw(folder / "logo.png", 5, 40, 20)


MADE = {
    "responsive": shop,
    "thumbnails": photos,
    "photographer": shoot,
    "gigapixels": scan,
    "speedup": photos,
}
LONG = {"speedup"}


def test_each_guide_has_its_files() -> None:
    assert {path.stem for path in GUIDES.glob("*.md")} == set(MADE)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if n in LONG else ()) for n in MADE])
def test_a_guide(name: str, tmp_path: Path) -> None:
    MADE[name](tmp_path)
    for kind, what, text in BLOCK.findall((GUIDES / f"{name}.md").read_text()):
        if kind == "html":
            continue
        if kind == "yaml":
            indent = len(text) - len(text.lstrip())
            (tmp_path / what).write_text("\n".join(line[indent:] for line in text.splitlines()))
            continue
        assert kind == "sh"
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            if program == "imageloom":
                ran = imageloom(*arguments, cwd=tmp_path)
            else:
                ran = subprocess.run(
                    [program, *arguments], cwd=tmp_path, check=False, text=True, capture_output=True
                )
            expected = int(what.removeprefix("exit=") or 0)
            assert ran.returncode == expected, f"{line}\n{ran.stdout}{ran.stderr}"
            assert "Traceback" not in ran.stderr
