"""The commands of other programs and ours beside them give the same size and nearly the same pixels."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import pytest
from PIL import ImageFilter, ImageOps

from forked import run_all
from program import draw

PAGE = (Path(__file__).parent.parent / "docs" / "coming-from.md").read_text()
ROW = re.compile(r"^\| `([^`]+)` \| `imageloom ([^`]+)` \| (\d+(?:\.\d+)?) \|$", re.M)


class Row(NamedTuple):
    peer: str
    ours: str
    levels: float

    @property
    def output(self) -> str:
        found = re.search(r"out\.\w+", self.peer)
        assert found
        return found[0]


def rows(program: str) -> list[Row]:
    section = PAGE.split(f"## From {program}\n", 1)[1].split("\n## ", 1)[0]
    return [Row(a.replace("\\|", "|"), b.replace("\\|", "|"), float(c)) for a, b, c in ROW.findall(section)]


PROGRAMS = ("ImageMagick", "vips", "sharp", "Pillow")


def test_there_are_forty_and_each_row_is_read() -> None:
    counts = [len(rows(program)) for program in PROGRAMS]
    assert sum(counts) >= 40
    assert sum(counts) == sum(line.startswith("| `") for line in PAGE.splitlines())


def run_peer(program: str, folder: Path, commands: list[str]) -> bool:
    """Run each command in the folder of its number; False if the program is not installed."""
    if program == "Pillow":
        names = {"Image": PIL.Image, "ImageOps": ImageOps, "ImageFilter": ImageFilter}
        for number, command in enumerate(commands):
            here = command.replace("'in.", f"'{folder}/in.").replace("'out.", f"'{folder}/{number}/out.")
            exec(here, dict(names))
        return True
    if program == "sharp":
        node = shutil.which("node")
        lines = [
            f"await {c.replace(chr(39) + 'out.', chr(39) + str(n) + '/out.')};"
            for n, c in enumerate(commands)
        ]
        script = f"const sharp = require('sharp'); (async () => {{ {' '.join(lines)} }})()"
        if node is None or subprocess.call([node, "-e", "require('sharp')"], stderr=subprocess.DEVNULL):
            return False
        subprocess.run([node, "-e", script], cwd=folder, check=True, timeout=60)
        return True
    words = [shlex.split(command) for command in commands]
    if shutil.which(words[0][0]) is None:
        return False
    for number, arguments in enumerate(words):
        moved = [re.sub(r"^out\.", f"{number}/out.", word) for word in arguments]
        subprocess.run(moved, cwd=folder, check=True, timeout=60)
    return True


@pytest.mark.parametrize("program", PROGRAMS)
def test_both_sides_give_the_same(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    draw(tmp_path / "in.jpg", 11, 600, 400)
    found = rows(program)
    for number in range(len(found)):
        (tmp_path / f"{number}").mkdir()
    if not run_peer(program, tmp_path, [row.peer for row in found]):
        pytest.skip(f"{program} is not installed")
    ours = [shlex.split(row.ours.replace("out.", f"ours-{n}.")) for n, row in enumerate(found)]
    for row, ran in zip(found, run_all(ours, tmp_path), strict=True):
        assert ran.code == 0, (row.ours, ran.text)
    report = {}
    for number, row in enumerate(found):
        theirs, made = (
            np.asarray(PIL.Image.open(tmp_path / name).convert("RGB"), np.float32)
            for name in (f"{number}/{row.output}", row.output.replace("out.", f"ours-{number}."))
        )
        assert theirs.shape == made.shape, row
        report[row.peer] = (round(float(abs(theirs - made).mean()), 2), row.levels)
    assert not {peer: levels for peer, levels in report.items() if levels[0] > levels[1]}
