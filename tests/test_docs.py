"""What the documents say can be done can be done."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from imageloom import operators
from imageloom.bench.samples import draw_photos
from imageloom.engines import ENGINES
from program import draw, imageloom

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("imageloom ")]


def test_there_are_commands() -> None:
    assert len(commands()) >= 6


@pytest.mark.parametrize("command", commands())
def test_the_readmes_commands_work(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    draw_photos(tmp_path / "photos", 2)
    done = imageloom(*shlex.split(command)[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_readmes_python_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    draw_photos(tmp_path / "photos", 2)
    from imageloom.bench.samples import draw_photo

    exec(code, {"pixels": draw_photo(0)})
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_the_examples_of_python_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) >= 10
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        draw(tmp_path / "photos" / f"{number}.jpg", number, 80, 60)
    draw(tmp_path / "photo.jpg", 5, 400, 300)
    names: dict[str, object] = {"__name__": "__main__"}
    try:
        for block in blocks:
            exec(block, names)
    finally:
        for forget in operators.reloaded:  # other tests must not see the operator of the page
            forget("__main__")
    assert [len(list((tmp_path / name).glob("*"))) for name in ("out", "small", "a", "b")] == [4, 4, 4, 4]
    assert len(list((tmp_path / "both").glob("*/*"))) == 8


def test_the_readme_and_the_architecture_name_what_there_is() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == set(ENGINES.built_in)
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    package = ROOT / "src" / "imageloom"
    rooms = {p.name + "/" if p.is_dir() else p.name for p in package.iterdir() if p.name[0] != "_"}
    rooms = {room for room in rooms if not room.endswith(".pyi")} - {"py.typed", "api.py", "samples.py"}
    missing = {room for room in rooms if f"`{room}`" not in architecture}
    assert not missing
