"""The program as people run it: exit codes, what goes to stdout and stderr, interruption, help."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest

from imageloom import operators
from imageloom.cli import COMMANDS, cli
from imageloom.cli.arguments import places
from imageloom.cli.jobs import show
from imageloom.model import Recipe
from imageloom.recipes.recipe import parse_output, read_recipe, with_operators
from imageloom.records.ledger import default_path
from program import contents, draw, imageloom, names, start, wait_for_outputs, working


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# Exit codes


def test_all_done_is_0_and_the_last_line_says_so(photos: Path, out: Path) -> None:
    ran = imageloom("run", "resize 50% | grayscale", photos, out)
    assert ran.returncode == 0
    assert re.fullmatch(r"6 of 6 done, 0 failed, \d+\.\d\d s, [\d.]+/s\n", ran.stdout)
    assert ran.stderr == ""
    assert names(out) == names(photos)


def test_some_failed_is_1_and_they_are_listed(photos: Path, out: Path) -> None:
    (photos / "empty.jpg").touch()
    ran = imageloom("run", "grayscale", photos, out)
    assert ran.returncode == 1
    assert ran.stderr == "failed: empty.jpg: CorruptImage: the file is empty\n"
    assert ran.stdout.startswith("6 of 7 done, 1 failed, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "greyscale"], "there is no operator 'greyscale' (did you mean grayscale?)"),
        (["run", "resize 5"], "resize: size = 5"),
        (["run", "none.yaml"], "cannot read none.yaml"),
        (["run", "grayscale", "--format", "exr"], "there is no format 'exr'; there are: jpeg, png"),
        (["run", "grayscale", "--quality", "0"], "--quality"),
        (["run", "grayscale", "--memory", "lots"], "'lots' is not a positive number, such as 512M"),
        (["run", "grayscale", "--engine", "steam"], "there is no engine 'steam'; there are: serial, threads"),
        (["run", "grayscale", "--if-exists", "ask"], "--if-exists"),
        (["run", "grayscale", "-j", "0"], "--jobs"),
        (["run", "grayscale", "--nonsense"], "--nonsense"),
    ],
)
def test_what_cannot_be_meant_is_2(arguments: list[str], message: str, photos: Path, out: Path) -> None:
    ran = imageloom(*arguments, photos, out)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""
    assert not out.exists()


def test_a_sink_in_the_source_is_2(photos: Path) -> None:
    ran = imageloom("run", "grayscale", photos, photos / "out")
    assert ran.returncode == 2
    assert "where imageloom never writes" in ran.stderr
    assert not (photos / "out").exists()


def test_a_yaml_file_that_is_none_is_2(photos: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "edges.yaml").write_bytes(b"\xff\x00\x81")
    ran = imageloom("run", tmp_path / "edges.yaml", photos, out)
    assert ran.returncode == 2
    assert ran.stderr.startswith("imageloom: ")


def test_nothing_matched_is_3(photos: Path, out: Path) -> None:
    ran = imageloom("run", "grayscale", photos, out, "--include", "*.png")
    assert ran.returncode == 3
    assert "no image matched" in ran.stderr
    assert names(out) == []


def test_storage_that_cannot_be_used_is_4(photos: Path, out: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("These are my notes. " * 100)
    later = tmp_path / "later.db"
    with closing(sqlite3.connect(later)) as db:
        db.execute("PRAGMA user_version = 99")
    for arguments, message in (
        ([tmp_path / "nothing", out], "there is no file or folder"),
        ([photos, text / "out"], "cannot use the sink"),
        ([photos, out, "--ledger", text], "cannot use the ledger .*--ledger.*not a database"),
        ([photos, out, "--ledger", later], "version 99, this program needs version 1"),
        ([photos, out, "--ledger", text / "ledger.db"], "cannot use the ledger"),
        ([photos, out, "--ledger", "/proc/none/ledger.db"], "cannot use the ledger"),
        ([photos, out, "--log-file", "/proc/none/log"], "cannot write the log .*--log-file"),
    ):
        ran = imageloom("run", "grayscale", *arguments)
        assert ran.returncode == 4, arguments
        assert re.search(message, ran.stderr)
        assert "Traceback" not in ran.stderr
    assert text.read_text() == "These are my notes. " * 100


def test_a_sink_that_another_process_writes_into_is_4(crowd: Path, out: Path) -> None:
    arguments = ["run", "median_blur 31", crowd, out, "-j", "1"]
    running = start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for_outputs(out, running)
    writer = working(running)
    writer.suspend()  # it is still there when the other one has started
    refused = imageloom(*arguments)
    running.send_signal(signal.SIGINT)
    writer.resume()
    assert running.communicate(timeout=60)[1].startswith("stopping: ")
    assert running.returncode == 130
    assert refused.returncode == 4
    assert f"job 1 (process {writer.pid}) is writing into {out}" in refused.stderr


# What is shown


def test_json_is_all_that_stdout_has(photos: Path, out: Path) -> None:
    (photos / "empty.jpg").touch()
    imageloom("run", "grayscale", photos / "1.jpg", out)
    ran = imageloom("run", "grayscale", photos, out, "--json", "-v")
    *items, summary = [line for line in lines(ran.stdout) if line["event"] != "planned"]
    assert {line["event"]: line["item"] for line in items if line["event"] != "done"} == {
        "failed": "empty.jpg",
        "skipped": "1.jpg",
    }
    done = {line["item"]: line for line in items if line["event"] == "done"}
    assert sorted(done) == ["2.jpg", "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"]
    for key, line in done.items():
        assert line["outputs"] == {key: (out / key).stat().st_size}
        assert set(line["times"]) == {"read", "decode", "filter", "encode", "write"}
        assert line["attempt"] == 1
    assert (summary["event"], summary["done"], summary["failed"], summary["skipped"]) == ("summary", 5, 1, 1)
    assert "5 of 7 done (1 skipped), 1 failed" in ran.stderr


def test_a_dry_run_changes_nothing_on_disk(photos: Path, out: Path, tmp_path: Path) -> None:
    (photos / "empty.jpg").touch()
    before = names(tmp_path)
    ran = imageloom("run", "grayscale", photos, out, "--dry-run")
    assert ran.returncode == 1
    assert "6 of 7 would be done, 1 failed" in ran.stdout
    assert "planned: a/1.jpg -> a/1.jpg" in ran.stderr
    assert names(tmp_path) == before
    (photos / "empty.jpg").unlink()
    imageloom("run", "grayscale", photos / "1.jpg", out)
    before_bytes = contents(tmp_path)
    ran = imageloom("run", "grayscale", photos, out, "--dry-run", "--json")
    assert ran.returncode == 0
    planned = [line["item"] for line in lines(ran.stdout) if line["event"] == "planned"]
    assert sorted(planned) == ["2.jpg", "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"]
    assert contents(tmp_path) == before_bytes


def test_a_dry_run_tells_duplicates(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "a.jpg")
    draw(tmp_path / "photos" / "a.png")
    ran = imageloom("run", "grayscale", tmp_path / "photos", tmp_path / "out", "--format", "png", "--dry-run")
    assert ran.returncode == 1
    assert "DuplicateOutput" in ran.stderr


def test_quiet_and_verbose(photos: Path, out: Path) -> None:
    verbose = imageloom("run", "grayscale", photos, out, "-v")
    assert len(re.findall(r"^done: .*\.jpg, \d+\.\d ms$", verbose.stderr, re.M)) == 6
    (photos / "empty.jpg").touch()
    quiet = imageloom("run", "grayscale", photos, out, "-q")
    assert quiet.stderr == "failed: empty.jpg: CorruptImage: the file is empty\n"
    assert "1 failed" in quiet.stdout


def test_no_more_failures_are_shown_than_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(30):
        (tmp_path / "photos" / f"{number}.jpg").touch()
    ran = imageloom("run", "grayscale", tmp_path / "photos", tmp_path / "out")
    assert len(re.findall("^failed: ", ran.stderr, re.M)) == 20
    hint = re.search(r"10 more items failed; list all: imageloom (jobs show 1 --failed)", ran.stderr)
    assert hint
    assert imageloom(*hint[1].split()).stdout.count("CorruptImage") == 30
    command = ("run", "grayscale", tmp_path / "photos", tmp_path / "other", "--ledger", tmp_path / "a b.db")
    preview = imageloom(*command, "--dry-run")
    assert re.search(r"^10 more items failed$", preview.stderr, re.M), "there is no job to show"
    hint = re.search(r"10 more items failed; list all: imageloom (.*)", imageloom(*command).stderr)
    assert hint
    assert imageloom(*shlex.split(hint[1])).stdout.count("CorruptImage") == 30


def test_a_name_can_neither_drive_a_terminal_nor_break_a_line(tmp_path: Path) -> None:
    name = "a\x1b[31m\n.jpg"
    photos, log = tmp_path / "photos", tmp_path / "log"
    draw(photos / name)
    (photos / f"b{name}").touch()
    ran = imageloom("run", "grayscale", photos, tmp_path / "out", "-v", "--log-file", log)
    shown = ran.stderr + log.read_text() + imageloom("jobs", "show", "1").stdout
    assert shown.count(r"a\x1b[31m\x0a.jpg") == 8
    assert "\x1b" not in shown
    assert len(log.read_text().splitlines()) == 2
    (item,) = [
        line["item"]
        for line in lines(imageloom("run", "invert", photos, tmp_path / "out", "--json").stdout)
        if line["event"] == "done"
    ]
    assert item == name


@pytest.mark.parametrize("format", ["text", "json"])
def test_the_log_has_a_line_for_each_event(format: str, photos: Path, out: Path, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    (photos / "empty.jpg").touch()
    arguments = ["run", "grayscale", photos, out, "--log-file", log, "--log-format", format]
    imageloom(*arguments)
    imageloom(*arguments)
    written = log.read_text().splitlines()
    assert len(written) == 14
    if format == "text":
        assert all(
            re.match(r"\d{4}-\d\d-\d\d [\d:,]+ (INFO|ERROR) (done|failed|skipped) job=[12] item=", w)
            for w in written
        )
        return
    events = [json.loads(line) for line in written]
    assert [event["job"] for event in events] == [1] * 7 + [2] * 7
    assert {event["event"] for event in events} == {"done", "failed", "skipped"}
    for event in events:
        assert event["time"] > 1e9
        assert event["item"].endswith(".jpg")
        assert event["event"] == "skipped" or {"attempt", "worker"} <= set(event)
    (failed,) = [event for event in events[:7] if event["event"] == "failed"]
    assert (failed["level"], failed["item"], failed["reason"]) == (
        "error",
        "empty.jpg",
        "CorruptImage: the file is empty",
    )


def test_jobs_lists_and_shows(photos: Path, out: Path) -> None:
    (photos / "empty.jpg").touch()
    imageloom("run", "grayscale", photos, out)
    imageloom("run", "grayscale", photos, out)
    listed = imageloom("jobs").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["2", "1"]
    assert "6 done, 1 failed, 0 skipped  grayscale" in listed[1]
    assert "0 done, 1 failed, 6 skipped  grayscale" in listed[0]
    shown = imageloom("jobs", "show", "1")
    assert shown.returncode == 0
    assert "failed  empty.jpg  CorruptImage: the file is empty (attempt 1)" in shown.stdout
    assert len(re.findall(r"^done    .*decode \d", shown.stdout, re.M)) == 6
    failed = imageloom("jobs", "show", "1", "--failed", "--json")
    assert [line["key"] for line in lines(failed.stdout)] == ["empty.jpg"]
    assert [line["id"] for line in lines(imageloom("jobs", "--json").stdout)] == [2, 1]
    missing = imageloom("jobs", "show", "9")
    assert missing.returncode == 2
    assert f"there is no job 9 in {default_path()}" in missing.stderr


def test_plan_explains_a_file(photos: Path) -> None:
    ran = imageloom("plan", "resize 30x | grayscale", photos / "1.jpg")
    assert ran.returncode == 0
    assert "1/2 of the size" in ran.stdout
    assert "luma only" in ran.stdout
    assert imageloom("plan", "crop 999x9", photos / "1.jpg").returncode == 1
    assert imageloom("plan", "flip", photos / "1.jpg", "--max-pixels", "1k").stderr.endswith(
        "(--max-pixels)\n"
    )


def test_ops_lists_and_explains() -> None:
    listed = imageloom("ops").stdout
    assert [name for name in ("resize", "crop", "flip", "rotate", "grayscale", "invert", "gaussian_blur",
            "median_blur", "threshold", "canny") if f"\n{name} " not in f"\n{listed}"] == []  # fmt: skip
    assert "table" not in listed
    assert "low: a number from 0 to 100000  [100.0]" in imageloom("ops", "canny").stdout
    assert imageloom("ops", "cany").returncode == 2


def test_the_demo_runs_its_main_job_and_again_does_nothing(tmp_path: Path) -> None:
    ran = imageloom("demo", tmp_path / "demo", "--count", 5)
    assert ran.returncode == 0, ran.stderr
    assert "5 of 5 done" in ran.stdout
    assert len(list((tmp_path / "demo" / "out").iterdir())) == 5
    assert "all 5 are up to date" in imageloom("demo", tmp_path / "demo", "--count", 5).stdout


# Help

HELP: dict[str, click.Command] = {
    "": cli,
    **{name: cli.get_command(click.Context(cli), name) or cli for name in COMMANDS},
    "jobs show": show,
}


@pytest.mark.parametrize("name", HELP)
def test_every_help_has_examples_that_parse(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = imageloom(*name.split(), "--help")
    assert shown.returncode == 0
    examples = re.findall(r"^ +imageloom ([^>]*?)(?: >.*)?$", shown.stdout, re.M)
    assert examples
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photo.jpg")
    (tmp_path / "edges.yaml").write_text("- canny\n")
    (tmp_path / "recipe.yaml").write_text("outputs: {edges: canny}\n")
    (tmp_path / "my_ops.py").write_text(
        "from imageloom import operator\n\n\n"
        "@operator('point', examples=('my_filter 3',))\n"
        "def my_filter(image, *, n: int):\n    return image\n"
    )
    (tmp_path / "photos").mkdir()
    for example in examples:
        words = shlex.split(example)
        if words[:2] == ["jobs", "show"]:
            command, rest = show, words[2:]
        else:
            command, rest = HELP[words[0]], words[1:]
        context = command.make_context(words[0], rest)
        given = context.params
        with_operators(Recipe(()), given.get("operators", ()))
        pipeline = given.get("pipeline")
        if given.get("arguments"):
            pipeline = places(given["arguments"], bool(given["outputs"]), given.get("in_place", False))[0]
        if pipeline is not None:
            assert read_recipe(pipeline).outputs[0].steps
        assert all(parse_output(text).steps for text in given.get("outputs", ()))
    found = [known.function.__module__ for known in operators.operators() if known.name == "my_filter"]
    for module, forget in itertools.product(
        found, operators.reloaded
    ):  # another file of this name may follow
        forget(module)
