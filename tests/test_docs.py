"""What the documents say can be done can be done."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import imageloom as package
from forked import run_all
from imageloom import errors, operators
from imageloom.bench.samples import draw_photos
from imageloom.engines import ENGINES
from program import draw

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted({*DOCS.glob("*.md")} - {DOCS / "python.md"})]


def commands(page: Path, folder: Path) -> Iterator[tuple[list[str], int]]:
    """The commands of a page with the exit code that each must have; its YAML files are written."""
    for kind, what, text in BLOCK.findall(page.read_text()):
        if kind == "yaml":
            (folder / what).write_text(text)
        for line in text.splitlines() if kind == "sh" else ():
            words = shlex.split(line, comments=True)
            if words and words[0] == "imageloom":
                yield words[1:], int(what.removeprefix("exit=") or 0)


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_the_commands_of_a_page_work(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    found = list(commands(page, tmp_path))
    if not found:
        return
    draw_photos(tmp_path / "photos", 2)
    (cut := tmp_path / "damaged" / "cut.jpg").parent.mkdir()
    cut.write_bytes((tmp_path / "photos" / "photo-0000.jpg").read_bytes()[:5000])
    for (words, code), ran in zip(found, run_all([words for words, _ in found], tmp_path), strict=True):
        assert ran.code == code, f"{shlex.join(words)}\n{ran.text}"
        assert "Traceback" not in ran.text


def test_there_are_commands() -> None:
    assert len(README.split("```sh\nimageloom")[1].splitlines()) >= 5


def test_each_block_says_what_it_is() -> None:
    for page in PAGES:
        kinds = {kind for kind, _, _ in BLOCK.findall(page.read_text())}
        assert kinds <= {"sh", "python", "yaml", "text", "toml"}, page


@pytest.mark.parametrize("page", [pytest.param(DOCS / "outputs.md", id="outputs")])
def test_the_python_of_a_page_works(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    draw_photos(tmp_path / "photos", 2)
    for kind, _, text in BLOCK.findall(page.read_text()):
        if kind == "python":
            exec(text, {})
    assert len(list(tmp_path.glob("both/*/*"))) == 4


def test_each_failure_is_explained() -> None:
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ItemError)
    }
    explained = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "failures.md").read_text(), re.MULTILINE))
    assert explained == kinds - {"ItemError"}


def test_each_metric_is_explained() -> None:
    named = set(re.findall(r'"(imageloom_\w+)"', (ROOT / "src/imageloom/service/health.py").read_text()))
    assert named
    assert named == set(re.findall(r"^\| `(imageloom_\w+)", (DOCS / "observe.md").read_text(), re.MULTILINE))


def test_each_public_name_is_in_the_reference() -> None:
    shown = set(re.findall(r"^::: imageloom\.(\w+)$", (DOCS / "reference.md").read_text(), re.MULTILINE))
    assert shown == set(package.__all__) - {"Meta", "__version__", "errors", "ops"}


def test_each_extra_is_named() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    page = (DOCS / "install.md").read_text()
    assert not {name for name in extras if f"`{name}`" not in page} - {"dev", "docs", "fuzz", "tiff"}


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
    engines = (ROOT / "docs" / "engines.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", engines, re.MULTILINE)) == set(ENGINES.built_in)
    table = README.split("## Which engine when", 1)[1].split("\n## ", 1)[0]
    names = (cell for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for cell in row.split(", "))
    assert {name.strip("`") for name in names} == set(ENGINES.built_in)
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    package = ROOT / "src" / "imageloom"
    rooms = {p.name + "/" if p.is_dir() else p.name for p in package.iterdir() if p.name[0] != "_"}
    rooms = {room for room in rooms if not room.endswith(".pyi")} - {"py.typed", "api.py", "samples.py"}
    missing = {room for room in rooms if f"`{room}`" not in architecture}
    assert not missing
