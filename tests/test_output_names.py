"""Names of outputs stay below the sink, whatever the template, the recipe and the item's name are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imageloom.api import process
from imageloom.errors import InvalidName, UsageError
from imageloom.model import Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.stores.local import LocalStore
from imageloom.stores.names import check_output_name, is_token, new_token
from program import Run, contents, draw, imageloom, names
from service import site

GRAY = Pipeline.parse("grayscale").steps

TEMPLATES = [
    "{stem:.0}",
    "{stem:>900000000}",
    "{stem:{ext}}",
    "{dir:>2}/{stem}",
    "{stem!r}",
    "{stem!s:>9}",
    "{stem.__class__}",
    "{stem[0]}",
    "{stem.__init__.__globals__}",
    "{0}{stem}",
    "{}",
    "../{stem}.{ext}",
    "{dir}/../../{stem}.{ext}",
    "{stem}/..",
    "./{stem}.{ext}",
    ".imageloom/{stem}.{ext}",
    "{dir}/.imageloom/{stem}.{ext}",
    "{dir}/.ImageLoom/{stem}.{ext}",
    "{stem}\0.{ext}",
    "x" * 300 + "{stem}",
    "{stem}" * 2000,
    "{dir}/" * 900 + "{stem}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_makes_no_sense_is_refused_before_the_run(
    template: str, photos: Path, out: Path
) -> None:
    with pytest.raises(UsageError, match="--name"):
        process("grayscale", photos, out, name=template)
    assert not out.exists()


@pytest.mark.parametrize("command", ["run", "watch"])
@pytest.mark.parametrize("template", ["{stem:>900000000}", "..{dir}/..{dir}/{stem}.{ext}"])
def test_every_command_checks_its_names(command: str, template: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    ends = ["--until-idle", "1"] if command == "watch" else []
    before = set(names(tmp_path))
    ran = imageloom(command, "grayscale", photos, out, "--name", template, *ends)
    assert ran.returncode == (2 if ":" in template else 1), ran.stderr
    assert "--name" in ran.stderr
    made = {name for name in set(names(tmp_path)) - before if not name.startswith("state")}
    assert all(name.startswith("deep/out/") for name in made), made


def test_a_server_checks_the_names_of_its_jobs(photos: Path, tmp_path: Path) -> None:
    """Its roots are those of the sink, not of each output."""
    (tmp_path / "service").mkdir()
    with site(tmp_path, tmp_path / "service") as place:
        server = place.server()
        place.node("--server", server.address)
        sink = tmp_path / "deep" / "out"
        told = place.submit(server, "grayscale", photos, sink, "--name", "{stem:.0}")
        assert (told.returncode, "--name" in told.stderr) == (2, True), told.stderr
        told = place.submit(server, "grayscale", photos, sink, "--name", "..{dir}/..{dir}/{stem}.{ext}")
        assert told.returncode == 1, told.stderr
        assert "outputs must be inside the sink" in told.stderr
        assert not list(tmp_path.glob("*.jpg"))
        assert sorted(path.name for path in sink.parent.iterdir()) == ["out"]


def test_an_item_whose_finished_name_leads_out_fails_and_the_others_go_on(photos: Path, out: Path) -> None:
    """Only items at the top make '..' of this."""
    ran = Run("grayscale", photos, out, name="..{dir}/{stem}.{ext}")
    assert ran.failed == {"1.jpg": "InvalidName", "2.jpg": "InvalidName"}
    assert "outputs must be inside the sink" in ran.reason("1.jpg")
    assert sorted(contents(out)) == ["..a/1.jpg", "..a/2.jpg", "..b/1.jpg", "..b/2.jpg"]
    assert sorted(path.name for path in out.parent.iterdir() if path.suffix) == []


def test_a_name_that_is_too_long_fails_its_item(photos: Path, out: Path) -> None:
    long = "x" * 200
    draw(photos / f"{long}.jpg")
    draw(photos / "\N{SNOWMAN}" / f"{'é' * 110}.jpg")
    ran = Run("grayscale", photos, out, name="{dir}/{stem}{stem}.{ext}")
    assert set(ran.failed.values()) == {"InvalidName"}
    assert sorted(ran.failed) == [f"{long}.jpg", f"\N{SNOWMAN}/{'é' * 110}.jpg"]
    assert "over the limit of 255" in ran.reason(f"{long}.jpg")
    assert len(ran.done) == 6


def test_where_there_is_no_folder_no_slash_stands_for_it(photos: Path, out: Path) -> None:
    assert Run("grayscale", photos, out, name="x/{dir}/{dir}/{stem}.{ext}").numbers == (6, 0, 0)
    assert {"x/1.jpg", "x/a/a/1.jpg"} <= set(contents(out))
    assert Run("grayscale", photos, out, name="x/{dir}/{dir}/{stem}.{ext}").numbers == (0, 0, 6)


@pytest.mark.parametrize("folder", ["..", "../x", "a/../../x", "/etc", "a//b", ".imageloom", "a/.", "n\0"])
def test_the_folder_of_an_output_stays_below(folder: str, photos: Path, out: Path) -> None:
    with pytest.raises(UsageError, match="folder"):
        process(Recipe((Output(GRAY, folder=folder),)), photos, out)
    assert not out.exists()


WRONG = [
    "",
    ".",
    "..",
    "/x",
    "x/",
    "a//b",
    "a/./b",
    "a/../b",
    "../x",
    "x/..",
    "a\0b",
    ".imageloom",
    "a/.imageloom/b",
]
WRONG += ["x" * 256, "é" * 128, "a/" * 2100 + "a", "\udc80.jpg"]
RIGHT = [
    "x",
    "a/b",
    "...",
    ".x",
    "..x/y",
    "x..",
    "a b/c#d?e",
    "line\nbreak.jpg",
    "\N{SNOWMAN}/é.jpg",
    "x" * 255,
    "é" * 127,
]
RIGHT += ["imageloom", ".imageloom2/x", "back\\slash"]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name_is_refused_wherever_it_is_used(name: str, out: Path) -> None:
    with pytest.raises(InvalidName, match="its output's name"):
        check_output_name(name)
    store = LocalStore(str(out / "sink"))
    store.prepare()
    store.stage("1-1-1-0123456789ab", b"data")
    with pytest.raises(InvalidName):
        store.publish("1-1-1-0123456789ab", name)
    store.tidy()
    assert names(out) == ["sink"]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_name_is_left_as_it_is(name: str) -> None:
    assert check_output_name(name) == name


def test_tokens_of_an_attempt_differ_also_behind_a_fork() -> None:
    asked = [("1", 1, 1)] * 20
    here = [new_token(*one) for one in asked]
    read, write = os.pipe()
    pid = os.fork()
    if not pid:  # only what is safe in a process that had threads: no pool, which starts more of them
        try:
            os.write(write, "\n".join(new_token(*one) for one in asked).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as pipe:
        there = pipe.read().split()
    assert os.waitpid(pid, 0) == (pid, 0)
    here += [new_token(*one) for one in asked]
    assert len({*here, *there}) == len(here) + len(there) == 60
    assert all(map(is_token, {*here, *there}))
