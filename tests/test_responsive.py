"""Responsive sets: several widths and formats of each image, digests in names, and the manifest."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import imageloom
from imageloom import codecs
from imageloom.driver.manifest import Entry, Made, as_html
from imageloom.errors import PipelineError, UsageError
from imageloom.model import Output, Recipe, Step
from imageloom.recipes.responsive import expanded
from program import Run, contents, draw
from program import imageloom as command

WIDTHS = (30, 60, 120)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw(tmp_path / "in/large.png", 1, 200, 100)
    draw(tmp_path / "in/sub/small.png", 2, 40, 60)
    return tmp_path


def run(folder: Path, pipeline: Any = "flip", **options: Any) -> Run:
    return Run(
        pipeline, folder / "in", folder / "out", **{"ledger": folder / "l.db", "engine": "serial", **options}
    )


def sizes(folder: Path) -> dict[str, tuple[str, int]]:
    """Format and width of each output."""
    headers = {name: codecs.header_of(data) for name, data in contents(folder / "out").items()}
    return {name: (header.format, header.frame.width) for name, header in headers.items()}


def test_no_image_is_enlarged(folder: Path) -> None:
    for done in (2, 0):
        assert run(folder, widths=WIDTHS, formats=("webp", "jpeg")).numbers[0] == done
        assert sizes(folder) == {
            f"{stem}-{width}w.{suffix}": (format, width)
            for suffix, format in (("webp", "webp"), ("jpg", "jpeg"))
            for stem, widths in (("large", WIDTHS), ("sub/small", (30, 40)))
            for width in widths
        }


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_engines_make_equal_bytes(folder: Path, engine: str) -> None:
    run(folder, "rotate 90 | grayscale", widths=WIDTHS, formats=("webp", "jpeg"))
    first = contents(folder / "out")
    other = Run(
        "rotate 90 | grayscale", folder / "in", folder / "other", ledger=folder / "o.db", widths=WIDTHS,
        formats=("webp", "jpeg"), engine=engine, jobs=1,
    )  # fmt: skip
    assert other.numbers == (2, 0, 0)
    assert contents(folder / "other") == first


def test_the_width_is_that_after_the_steps(folder: Path) -> None:
    """A crop or a turn before the resize counts, and so does the condition of an output."""
    run(folder, "when landscape | crop 50x100", widths=(20, 50, 100))
    assert sorted(sizes(folder)) == ["large-20w.png", "large-50w.png"]


def test_digests_in_names(folder: Path) -> None:
    name = "{dir}/{stem}.{hash}.{ext}"
    assert run(folder, name=name).numbers == (2, 0, 0)
    before = sizes(folder)
    assert all(re.fullmatch(r"(sub/)?(large|small)\.[0-9a-f]{16}\.png", found) for found in before)
    assert run(folder, name=name).numbers == (0, 0, 2)
    draw(folder / "in/large.png", 3, 100, 100)
    assert run(folder, name=name).numbers == (1, 0, 1)
    assert len(sizes(folder)) == 3
    ran = run(folder, name=name, prune=True, manifest=folder / "m.json")
    assert len(sizes(folder)) == 2
    assert {
        one["name"]
        for item in json.loads((folder / "m.json").read_bytes())["items"]
        for one in item["outputs"]
    } == {*sizes(folder)}
    assert ran.numbers == (0, 0, 2)
    for options, sink in (({"only_if_smaller": True}, "out"), ({"in_place": True}, "in")):
        with pytest.raises(UsageError, match=r"excludes names with \{hash\}"):
            Run("flip", folder / "in", folder / sink, name=name, ledger=folder / "l.db", **options)


def test_digests_from_other_processes_and_with_durable(folder: Path) -> None:
    ran = run(folder, name="{stem}.{hash}.{ext}", engine="processes", jobs=1, durable=True)
    assert (ran.numbers, len(sizes(folder))) == ((2, 0, 0), 2)


def test_equal_digests_of_two_items_are_a_duplicate(folder: Path) -> None:
    (folder / "in/copy.png").write_bytes((folder / "in/large.png").read_bytes())
    ran = run(folder, name="{hash}.{ext}")
    assert (ran.numbers[:2], list(ran.failed.values())) == ((2, 1), ["DuplicateOutput"])


def test_the_manifest(folder: Path) -> None:
    run(
        folder,
        widths=WIDTHS,
        formats=("webp", "jpeg"),
        manifest=[folder / "m.json", folder / "m.html"],
        sizes="50vw",
    )
    items = json.loads((folder / "m.json").read_bytes())["items"]
    assert [item["input"] for item in items] == ["large.png", "sub/small.png"]
    found = {one["name"]: (one["format"], one["width"]) for item in items for one in item["outputs"]}
    assert found == sizes(folder)
    html = (folder / "m.html").read_text()
    srcset = "large-30w.webp 30w, large-60w.webp 60w, large-120w.webp 120w"
    assert f'<source type="image/webp" srcset="{srcset}" sizes="50vw">' in html
    assert '<img src="sub/small-40w.jpg"' in html
    with pytest.raises(UsageError, match=r"\.json or \.html"):
        run(folder, manifest="m.txt")


def test_html_is_safe() -> None:
    entry = Entry('a-->"<b>.png', (Made('a, <b>"&.png', "png", 3, 2, 9),))
    html = as_html([entry], '"1px').decode()
    assert "<b>" not in html
    assert html.count("-->") == 1
    assert 'src="a%2C%20%3Cb%3E%22%26.png"' in html


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"widths": (30, 30)}, "different numbers"),
        ({"widths": (0,)}, "different numbers|from 1"),
        ({"widths": (1, 2), "name": "{stem}.{ext}x"}, r"needs \{width\}"),
        ({"formats": ("webp", "webp")}, "given twice"),
        ({"formats": ("webp", "jpeg"), "name": "{stem}.img", "widths": (1,)}, r"needs \{ext\}"),
    ],
)
def test_wrong_sets(options: dict[str, Any], named: str) -> None:
    with pytest.raises(PipelineError, match=named):
        expanded(Output((Step("flip"),)), **options)


def test_a_recipe_with_a_set_and_the_plan(folder: Path) -> None:
    (folder / "r.yaml").write_text(
        "outputs:\n  web:\n    pipeline: when landscape | flip\n    widths: [30, 400]\n    formats: [webp, jpeg]\n"
        "    name: '{stem}_{width}.{ext}'\n"
    )
    ran = command("plan", "r.yaml", "in/large.png", cwd=folder)
    assert ran.stdout.count("asked     when landscape: flip, then 400 pixels wide, if it is wider") == 2, (
        ran.stderr
    )
    ran = command("run", "r.yaml", "in", "out", "--ledger", "l.db", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    assert sorted(sizes(folder)) == [
        f"web/large_{width}.{suffix}" for width in (200, 30) for suffix in ("jpg", "webp")
    ]


def test_python_takes_recipes_with_conditions(folder: Path) -> None:
    recipe = Recipe((Output((Step("flip"),), when="width > 1", width=20, name="{stem}-{width}.{ext}"),))
    assert imageloom.process(recipe, folder / "in", folder / "out", ledger=folder / "l.db").done == 2
    with pytest.raises(PipelineError, match="did you mean width"):
        imageloom.process(Recipe((Output((), when="wdth > 1"),)), folder / "in", folder / "out")
