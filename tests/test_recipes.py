"""Recipes, operators of one's own, output names, in place."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from imageloom.api import process
from imageloom.bench.samples import draw_photos
from imageloom.driver.naming import check_template
from imageloom.errors import PipelineError, UsageError
from imageloom.model import Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import parse_output, read_recipe
from program import imageloom

YAML = """
decode: exact
outputs:
  gray: grayscale
  blur:
    pipeline: gaussian_blur 2
    format: png
    folder: deep/soft
  edges:
    pipeline: [grayscale, {canny: [100, 200]}]
    quality: 40
"""

SMEAR = '''
from typing import Annotated

from msgspec import Meta

from imageloom import Pixels, operator


@operator("local", halo=lambda radius: radius, examples=("smear 4",))
def smear(image: Pixels, *, radius: Annotated[int, Meta(ge=1, le=50)] = 4) -> Pixels:
    """Average each pixel with its neighbours on the left and on the right, up to radius pixels away."""
    import cv2

    return cv2.blur(image, (2 * radius + 1, 1))
'''


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw_photos(tmp_path / "photos", 5)
    return tmp_path / "photos"


def test_a_recipe_equals_its_pipelines_run_apart(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "r.yaml").write_text(YAML)
    recipe = read_recipe(str(tmp_path / "r.yaml"))
    summary = process(recipe, photos, tmp_path / "all", ledger=tmp_path / "l.db")
    assert (summary.done, summary.failed) == (5, 0)
    for output in recipe.outputs:
        apart = Recipe((output,), "exact")
        process(apart, photos, tmp_path / "apart", ledger=tmp_path / "l.db")
    names = sorted(p.relative_to(tmp_path / "all") for p in (tmp_path / "all").rglob("*.*"))
    assert len(names) == 15
    assert {str(n.parent) for n in names} == {"gray", "deep/soft", "edges"}
    for name in names:
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "apart" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("outputs: {a: greyscale}", "greyscale"),
        ("outputs: {a: {pipeline: invert, qualty: 3}}", "qualty"),
        ("outputs: {a: {pipeline: invert, quality: 300}}", "quality = 300"),
        ("outputs: {a: {pipeline: invert, format: exr}}", "exr"),
        ("outputs: {a: {pipeline: invert, folder: ../up}}", "../up"),
        ("output: {a: invert}", "output"),
        ("outputs: []", "outputs"),
        ("decode: best\noutputs: {a: invert}", "best"),
        ("operators: nowhere.py\noutputs: {a: invert}", "nowhere.py"),
        ("just text", "list of steps"),
        ("[: bad", "YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_recipe(str(path))
    assert named in str(caught.value)


def test_an_output_is_a_name_and_a_pipeline() -> None:
    assert parse_output("edges=grayscale | canny 5 15") == Output(
        Pipeline("grayscale | canny 5 15").steps, folder="edges"
    )
    for wrong in ("grayscale", "=grayscale", "a b=grayscale", "a=", "../a=invert"):
        with pytest.raises(PipelineError):
            parse_output(wrong)


def test_operators_of_ones_own_from_a_file(tmp_path: Path, photos: Path) -> None:
    assert len(SMEAR.strip().splitlines()) <= 15
    file = tmp_path / "my_ops.py"
    file.write_text(SMEAR)
    arguments = ["smear 9 | resize 50%", photos, tmp_path / "out", "--operators", file, "--format", "png"]
    state = ["--ledger", tmp_path / "l.db"]
    done = imageloom("run", *arguments, *state, "--decode", "exact")
    assert done.returncode == 0, done.stderr
    for path in photos.iterdir():
        whole = cv2.imread(str(path))
        assert whole is not None
        smeared = cv2.blur(whole, (19, 1))
        half = (round(whole.shape[1] / 2), round(whole.shape[0] / 2))
        expected = cv2.resize(smeared, half, interpolation=cv2.INTER_AREA)
        made = cv2.imread(str(tmp_path / "out" / f"{path.stem}.png"))
        assert made is not None
        assert np.array_equal(made, expected)
    assert "all 5 are up to date" in imageloom("run", *arguments, *state, "--decode", "exact").stdout
    file.write_text(SMEAR.replace("2 * radius + 1", "2 * radius + 3"))
    assert "5 of 5 done" in imageloom("run", *arguments, *state, "--decode", "exact").stdout


def test_a_broken_file_of_operators_names_its_line(tmp_path: Path, photos: Path) -> None:
    file = tmp_path / "my_ops.py"
    file.write_text("import os\n\nthis_is_not_there\n")
    done = imageloom("run", "invert", photos, tmp_path / "out", "--operators", file)
    assert done.returncode == 2
    assert "my_ops.py: line 3: NameError" in done.stderr


@pytest.mark.parametrize(
    "wrong", ["{stem", "{dir}/x.{ext}", "{stem}{n}", "../{stem}", "{stem.__class__}", "{0}"]
)
def test_a_wrong_template_of_names_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        check_template(wrong)


def test_names_follow_their_template(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos" / "a" / "b", 1)
    out = tmp_path / "out"
    state = ["--ledger", tmp_path / "l.db"]
    name = "{dir}/small/{stem}_x.{ext}"
    assert imageloom("run", "invert", tmp_path / "photos", out, "--name", name, *state).returncode == 0
    assert (out / "a/b/small/photo-0000_x.jpg").is_file()
    assert imageloom("run", "invert", tmp_path / "photos", out, "--flatten", *state).returncode == 0
    assert (out / "photo-0000.jpg").is_file()


def test_in_place_replaces_once(tmp_path: Path, photos: Path) -> None:
    before = {p.name: p.read_bytes() for p in photos.iterdir()}
    arguments = ["run", "resize 100x", photos, "--in-place", "--ledger", tmp_path / "l.db"]
    assert "5 of 5 done" in imageloom(*arguments).stdout
    after = {p.name: p.read_bytes() for p in photos.iterdir()}
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in before)
    assert "all 5 are up to date" in imageloom(*arguments).stdout
    assert {p.name: p.read_bytes() for p in photos.iterdir()} == after
    other = imageloom(
        "run", "resize 90x", photos, "--in-place", "--format", "png", "--ledger", tmp_path / "l.db"
    )
    assert other.returncode == 1
    assert "must keep the input's name" in other.stderr


EVIL = """
from pathlib import Path

Path(__file__).with_suffix(".ran").touch()
"""


@pytest.mark.parametrize(
    "command",
    [
        "run {recipe} {photos} {out}",
        "run {recipe} {photos} {out} --dry-run",
        "run {recipe} {photos} {out} --operators {other}",
        "run {recipe} {photos} {out} --engine processes -j 1",
        "watch {recipe} {photos} {out} --until-idle 0",
        "plan {recipe} {photos}/photo-0000.jpg",
        "look {photos} {recipe} --to {out}.png",
        "submit {recipe} {photos} {out}",
    ],
)
def test_a_recipe_runs_no_code_that_nobody_named(tmp_path: Path, photos: Path, command: str) -> None:
    """Not even where nothing is to be done: it may come from a stranger."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    code, recipe, other = folder / "ops.py", folder / "r.yaml", tmp_path / "ops.py"
    code.write_text(EVIL)
    other.write_text(SMEAR)
    recipe.write_text("operators: ops.py\noutputs: {a: invert}\n")
    places = {"recipe": recipe, "photos": photos, "out": tmp_path / "out", "other": other}
    words = [word.format(**places) for word in command.split()]
    refused = imageloom(*words)
    assert refused.returncode == 2
    assert not code.with_suffix(".ran").exists()
    assert not (tmp_path / "out").exists()
    found = re.search(r"add --operators (\S+)$", refused.stderr.strip())
    assert found, refused.stderr
    if words[0] != "submit":
        allowed = ["--sandbox", "off"] if words[0] in ("run", "watch") else []  # it writes a file
        assert imageloom(*words, "--operators", found[1], *allowed).returncode == 0
        assert code.with_suffix(".ran").exists()


@pytest.mark.parametrize("entry", ["[ops.py]", "../recipes/ops.py", "[./ops.py]", "{path}", "[o/../ops.py]"])
def test_no_way_to_name_a_file_runs_it(tmp_path: Path, entry: str) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "ops.py").write_text(EVIL)
    entry = entry.format(path=folder / "ops.py")
    (folder / "r.yaml").write_text(f"operators: {entry}\noutputs: {{a: invert}}\n")
    with pytest.raises(UsageError, match="--operators"):
        read_recipe(str(folder / "r.yaml"))
    assert not (folder / "ops.ran").exists()


def test_the_same_file_by_another_name_is_named(tmp_path: Path, photos: Path) -> None:
    """By a link, or with the words of a configuration file: a Python file named twice is loaded once."""
    (tmp_path / "ops.py").write_text(SMEAR)
    (tmp_path / "r.yaml").write_text("operators: ops.py\noutputs: {a: smear 3}\n")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "config.yaml").write_text(f"run: {{operators: ['{tmp_path / 'link' / 'ops.py'}']}}\n")
    arguments = ("run", tmp_path / "r.yaml", photos, tmp_path / "out")
    assert imageloom("--config", tmp_path / "config.yaml", *arguments).returncode == 0
    again = imageloom(*arguments, "--operators", tmp_path / "ops.py")
    assert again.returncode == 0, again.stderr
