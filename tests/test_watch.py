"""`imageloom watch` over local folders: real processes, real files that come, change and go."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from imageloom.driver.watch import QUIET
from program import contents, draw, imageloom, kill, names, working
from watching import PIPELINE, THREE, Watching, made_of, made_of_one, slow_operator


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> bytes:
    return draw(tmp_path / "photo.jpg", 50).read_bytes()


@pytest.fixture
def other(tmp_path: Path) -> bytes:
    return draw(tmp_path / "other.jpg", 51).read_bytes()


def move_in(data: bytes, path: Path) -> None:
    """As most programs that upload do it: written under another name, then renamed."""
    hidden = path.parent / f".{path.name}.part"
    hidden.write_bytes(data)
    hidden.rename(path)


@pytest.mark.parametrize("flags", [(), ("--poll", "0.2")], ids=["told", "polled"])
def test_what_is_there_and_what_comes_is_done(
    photos: Path, photo: bytes, other: bytes, tmp_path: Path, out: Path, flags: tuple[str, ...]
) -> None:
    with Watching(PIPELINE, photos, out, *flags) as watch:
        watch.wait_for("1.jpg", "2.jpg", "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
        (photos / "written.jpg").write_bytes(photo)
        move_in(photo, photos / "a" / "renamed.jpg")
        (photos / "notes.txt").write_bytes(photo)
        (photos / ".hidden.jpg").write_bytes(photo)
        deep = tmp_path / "elsewhere" / "x" / "y"
        deep.mkdir(parents=True)
        (deep / "moved.jpg").write_bytes(photo)
        (tmp_path / "elsewhere").rename(photos / "folder")
        watch.wait_for("written.jpg", "a/renamed.jpg", "folder/x/y/moved.jpg")
        (photos / "1.jpg").write_bytes(other)  # in place
        move_in(other, photos / "2.jpg")
        watch.wait_for("1.jpg", "2.jpg", times=2)
        (photos / "b" / "1.jpg").unlink()
        (photos / "later.jpg").write_bytes(photo)
        watch.wait_for("later.jpg")
        assert watch.end() == 0
        assert len(watch.events("done")) == 6 + 3 + 2 + 1
        assert watch.events("failed") == []
        assert all(event["waited"] < 10 for event in watch.events("done"))
        assert watch.events("latency")[0]["items"] == 12
    made = contents(out)
    assert made.pop("b/1.jpg")  # its input is gone, which is no reason to lose it
    assert made == made_of(photos, tmp_path)


def test_folders_that_are_made_and_filled_at_once(photo: bytes, inbox: Path, out: Path) -> None:
    with Watching(PIPELINE, inbox, out) as watch:
        watch.wait(out.exists)
        for number in range(40):
            folder = inbox / f"{number}" / "deep" / "er"
            folder.mkdir(parents=True)
            (folder / "1.jpg").write_bytes(photo)
        watch.wait_for(*(f"{number}/deep/er/1.jpg" for number in range(40)))
        assert watch.end(signal.SIGINT) == 0


def test_a_file_is_not_read_while_it_is_written(photo: bytes, inbox: Path, tmp_path: Path, out: Path) -> None:
    """By one who keeps it open and pauses, and by one who comes back again and again."""
    cut = len(photo) // 5
    with Watching(PIPELINE, inbox, out) as watch:
        watch.wait(out.exists)
        with open(inbox / "held.jpg", "wb", buffering=0) as file:
            for start in range(0, len(photo), cut):
                file.write(photo[start : start + cut])
                time.sleep(0.3)
            assert watch.items("planned") == []
        longest, last = 0.0, time.monotonic()
        for start in range(0, len(photo), cut):
            with open(inbox / "again.jpg", "ab", buffering=0) as file:
                file.write(photo[start : start + cut])
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
            time.sleep(0.03)
        watch.wait_for("held.jpg", "again.jpg")
        assert watch.end() == 0
        assert watch.items("done").count("held.jpg") == 1
        assert "held.jpg" not in watch.items("failed")
        if longest < QUIET / 2:  # a machine that stalls the writer makes it one that has ended
            assert watch.items("done").count("again.jpg") == 1
            assert watch.events("failed") == []
    assert contents(out) == made_of(inbox, tmp_path)


def test_what_changes_while_it_is_worked_on_is_thrown_away_and_done_again(
    photo: bytes, other: bytes, inbox: Path, tmp_path: Path, out: Path
) -> None:
    operator = slow_operator(tmp_path)
    with Watching(
        "slow", inbox, out, "--operators", operator, "--sandbox", "off", "--engine", "threads"
    ) as watch:
        watch.wait(out.exists)
        (inbox / "1.jpg").write_bytes(photo)
        watch.wait_for("1.jpg", kind="planned")
        (inbox / "1.jpg").write_bytes(other)
        watch.wait_for("1.jpg", kind="skipped")
        assert watch.events("skipped")[0]["reason"] == "changed meanwhile"
        assert names(out) in ([".imageloom"], [".imageloom", *names(out / ".imageloom")])
        watch.wait_for("1.jpg")
        assert contents(out)["1.jpg"] == made_of_one(other, "1.jpg", tmp_path, "flip | flip")
        assert watch.end() == 0


def test_what_is_deleted_before_its_turn_is_dropped(
    photo: bytes, inbox: Path, tmp_path: Path, out: Path
) -> None:
    operator = slow_operator(tmp_path)
    flags = f"--operators {operator} --sandbox off --engine threads -j 1 --items-at-once 1".split()
    with Watching("slow", inbox, out, *flags) as watch:
        watch.wait(out.exists)
        for number in range(3):
            move_in(photo, inbox / f"{number}.jpg")
        watch.wait_for("0.jpg", "1.jpg", "2.jpg", kind="planned")
        (inbox / "1.jpg").unlink()  # it waits for its turn
        (inbox / "0.jpg").unlink()  # it may be in hand
        watch.wait_for("1.jpg", kind="skipped")
        watch.wait_for("2.jpg")
        assert watch.end() == 0
        assert {event["reason"] for event in watch.events("skipped")} == {"gone"}
        assert watch.events("failed") == []
    assert "1.jpg" not in names(out)


def test_a_bad_file_fails_once_and_is_done_when_it_is_replaced(
    photo: bytes, other: bytes, inbox: Path, tmp_path: Path, out: Path
) -> None:
    (inbox / "bad.jpg").write_bytes(photo[:300])
    (inbox / "good.jpg").write_bytes(photo)
    with Watching(PIPELINE, inbox, out, "--poll", "0.1") as watch:
        watch.wait_for("bad.jpg", kind="failed")
        watch.wait_for("good.jpg")
        (inbox / "good.jpg").write_bytes(photo[:300])
        watch.wait_for("good.jpg", kind="failed")
        for later in ("1.jpg", "2.jpg"):  # it is listed again, with them
            (inbox / later).write_bytes(photo)
            watch.wait_for(later)
        assert sorted(watch.items("failed")) == ["bad.jpg", "good.jpg"]
        for name in ("bad.jpg", "good.jpg"):
            (inbox / name).write_bytes(other)
        watch.wait_for("bad.jpg")
        watch.wait_for("good.jpg", times=2)
        assert watch.end() == 0
    assert contents(out) == made_of(inbox, tmp_path)


def test_links_that_lead_out_are_not_followed(photo: bytes, inbox: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "1.jpg").write_bytes(photo)
    (tmp_path / "secret.jpg").write_bytes(photo)
    (inbox / "there.jpg").symlink_to(tmp_path / "secret.jpg")
    with Watching(PIPELINE, inbox, out, "--poll", "0.2") as watch:
        watch.wait_for("there.jpg", kind="failed")
    with Watching(PIPELINE, inbox, out) as watch:
        watch.wait_for("there.jpg", kind="failed")
        (inbox / "out.jpg").symlink_to("../secret.jpg")
        (inbox / "folder").symlink_to("../secret")
        (inbox / "loop.jpg").symlink_to("loop.jpg")
        watch.wait_for("out.jpg", "loop.jpg", kind="failed")
        (tmp_path / "secret" / "2.jpg").write_bytes(photo)  # the system may tell of it all the same
        (inbox / "real.jpg").write_bytes(photo)
        (inbox / "in.jpg").symlink_to("real.jpg")
        watch.wait_for("real.jpg", "in.jpg")
        assert "leads out of" in watch.told
        assert watch.end() == 0
    assert names(out) == ["in.jpg", "real.jpg"]


def test_what_it_refuses(photos: Path, tmp_path: Path, out: Path) -> None:
    inside = imageloom("watch", PIPELINE, photos, photos / "out")
    assert inside.returncode == 2
    assert "lies in the source" in inside.stderr
    assert imageloom("watch", PIPELINE, tmp_path / "nothing", out).returncode == 4
    assert imageloom("watch", PIPELINE, photos / "1.jpg", out).returncode == 2
    assert imageloom("watch", PIPELINE, photos, out, "--poll", "0").returncode == 2


def test_outputs_are_the_inputs_of_another_watch_and_of_no_other(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        Watching("invert", photos, tmp_path / "out") as first,
        Watching("flip", tmp_path / "out", tmp_path / "twice") as second,
    ):
        second.wait_for("1.jpg", "2.jpg", "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
        shutil.copy(photos / "1.jpg", photos / "later.jpg")
        second.wait_for("later.jpg")
        assert first.end() == second.end() == 0
        assert len(first.events("done")) == len(second.events("done")) == 7
    assert contents(tmp_path / "out") == made_of(photos, tmp_path, "invert")
    assert contents(tmp_path / "twice") == made_of(tmp_path / "out", tmp_path, "flip")


def test_a_restart_catches_up_and_does_nothing_twice(
    photos: Path, photo: bytes, other: bytes, tmp_path: Path, out: Path
) -> None:
    with Watching(PIPELINE, photos, out) as watch:
        watch.wait_for("1.jpg", "2.jpg", "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
        assert watch.end() == 0
    (photos / "new.jpg").write_bytes(photo)
    (photos / "1.jpg").write_bytes(other)
    (photos / "b" / "2.jpg").unlink()
    with Watching(PIPELINE, photos, out, "--until-idle", 0) as watch:
        assert watch.code() == 0
        assert sorted(watch.items("done")) == ["1.jpg", "new.jpg"]
        assert sorted(watch.items("skipped")) == ["2.jpg", "a/1.jpg", "a/2.jpg", "b/1.jpg"]
    assert {**made_of(photos, tmp_path), "b/2.jpg": b""}.keys() == contents(out).keys()


def test_it_goes_on_when_its_folder_was_away(photos: Path, photo: bytes, tmp_path: Path, out: Path) -> None:
    with Watching(PIPELINE, photos, out, "--poll", "0.1") as watch:
        watch.wait_for("1.jpg", "b/2.jpg")
        photos.rename(tmp_path / "away")
        watch.wait(lambda: "cannot list" in watch.told)
        (tmp_path / "away" / "new.jpg").write_bytes(photo)
        (tmp_path / "away").rename(photos)
        watch.wait_for("new.jpg")
        assert watch.end() == 0
        assert len(watch.events("done")) == 7


def test_it_ends_when_nothing_comes(photos: Path, photo: bytes, out: Path) -> None:
    with Watching(PIPELINE, photos, out, "--until-idle", 3) as watch:
        watch.wait_for("1.jpg")
        time.sleep(1.6)
        (photos / "bad.jpg").write_bytes(photo[:300])
        watch.wait_for("bad.jpg", kind="failed")
        time.sleep(1.6)
        (photos / "new.jpg").write_bytes(photo)
        assert watch.code() == 1
        assert len(watch.items("done")) == 7


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_it_is_drained(engine: str, photo: bytes, inbox: Path, tmp_path: Path, out: Path) -> None:
    for number in range(6):
        (inbox / f"{number}.jpg").write_bytes(photo)
    operator = slow_operator(tmp_path)
    flags = f"--operators {operator} --sandbox off --engine {engine} -j 2 --items-at-once 1".split()
    with Watching("slow", inbox, out, *flags) as watch:
        watch.wait(operator.with_suffix(".begun").exists)
        assert watch.end() == 0
        done = sorted(watch.items("done"))
        assert done, "what was in progress is finished"
        assert watch.events("failed") == []
    assert sorted(contents(out)) == names(out) == done
    assert "  done  " in imageloom("jobs").stdout
    with Watching("slow", inbox, out, *flags, "--until-idle", 0) as watch:
        assert watch.code() == 0
        assert sorted(done + watch.items("done")) == names(inbox), "the others are done at the next start"
    assert contents(out) == made_of(inbox, tmp_path, "flip | flip")


def test_a_second_signal_ends_it_at_once(photo: bytes, inbox: Path, tmp_path: Path, out: Path) -> None:
    (inbox / "1.jpg").write_bytes(photo)
    with Watching(
        " | ".join(["slow"] * 5), inbox, out, "--operators", slow_operator(tmp_path), "--sandbox", "off"
    ) as watch:
        watch.wait((tmp_path / "slow.begun").exists)
        watch.running.send_signal(signal.SIGINT)
        watch.wait(lambda: "ending" in watch.told)
        assert watch.end(signal.SIGINT) == 130
    assert not (out / "1.jpg").exists()


def test_the_job_is_in_the_ledger_while_it_runs(photos: Path, photo: bytes, out: Path) -> None:
    with Watching(PIPELINE, photos, out) as watch:
        watch.wait_for("1.jpg", "b/2.jpg")
        watch.wait(lambda: "running     6 done" in imageloom("jobs").stdout)
        (photos / "new.jpg").write_bytes(photo)
        watch.wait_for("new.jpg")
        watch.wait(lambda: "running     7 done" in imageloom("jobs").stdout)
        assert "done    new.jpg" in imageloom("jobs", "show", 1).stdout
        assert watch.end() == 0
    assert "done        7 done" in imageloom("jobs").stdout


def kill_and_start_again(rounds: int, inbox: Path, tmp_path: Path, out: Path) -> None:
    """Files come all the time, new ones and new versions; the watcher is killed again and again."""
    photos = [draw(tmp_path / "drawn" / f"{seed}.jpg", seed, 400, 300).read_bytes() for seed in range(8)]
    expected = [made_of_one(data, "x.jpg", tmp_path) for data in photos]
    holds: dict[str, int] = {}
    kills = 0
    for turn in range(rounds):
        with Watching(PIPELINE, inbox, out) as watch:
            began = time.monotonic()
            until = began + random.uniform(0.2, 1.2)
            # every second kill waits until something is done, however slow the machine is
            while time.monotonic() < until or (
                turn % 2 and not watch.events("done") and time.monotonic() < began + 30
            ):
                number, seed = random.randrange(60), random.randrange(8)
                (move_in if number % 2 else write)(photos[seed], inbox / f"{number}.jpg")
                holds[f"{number}.jpg"] = seed
                time.sleep(0.005)
            kill(watch.running)
            kills += len(watch.events("done")) > 0
    with Watching(PIPELINE, inbox, out, "--until-idle", 0) as watch:
        assert watch.code() == 0, watch.told
    assert contents(out) == {key: expected[seed] for key, seed in holds.items()}
    assert kills, "no kill came amid the work"


def write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def test_killed_at_any_moment_nothing_is_missed(inbox: Path, tmp_path: Path, out: Path) -> None:
    kill_and_start_again(4, inbox, tmp_path, out)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_forty_times_nothing_is_missed(inbox: Path, tmp_path: Path, out: Path) -> None:
    kill_and_start_again(40, inbox, tmp_path, out)


def twenty_a_second(seconds: float, inbox: Path, tmp_path: Path, out: Path) -> None:
    """Twenty files a second: written at once, slowly, renamed in, overwritten, deleted."""
    photos = [draw(tmp_path / "drawn" / f"{seed}.jpg", seed, 400, 300).read_bytes() for seed in range(8)]
    expected = [made_of_one(data, "x.jpg", tmp_path) for data in photos]
    holds: dict[str, int] = {}
    slow: dict[str, tuple[int, BinaryIO]] = {}
    usage: list[tuple[int, int]] = []
    with Watching(PIPELINE, inbox, out, "--engine", "threads") as watch:
        watch.wait(out.exists)
        process = working(watch.running)
        began = time.monotonic()
        for number in range(int(20 * seconds)):
            time.sleep(max(0.0, began + number / 20 - time.monotonic()))
            key, seed = f"{number % 10}/{number}.jpg", random.randrange(8)
            (inbox / key).parent.mkdir(exist_ok=True)
            match number % 5:
                case 0:
                    move_in(photos[seed], inbox / key)
                case 1:
                    slow[key] = (seed, open(inbox / key, "wb", buffering=0))  # noqa: SIM115  # closed by write_on
                case 2 if len(holds) > 40:
                    key = random.choice(list(holds)[-40:])
                    if key not in slow:
                        (inbox / key).write_bytes(photos[seed])
                case 3:
                    (inbox / key).write_bytes(photos[seed])
                    if number % 2:
                        os.unlink(inbox / key)
                        continue
                case _:
                    (inbox / key).write_bytes(photos[seed])
            holds[key] = seed if key not in slow else slow[key][0]
            write_on(slow, photos)
            if number % 20 == 0:
                usage.append((process.memory_info().rss, process.num_fds()))
        while slow:
            write_on(slow, photos)
            time.sleep(0.03)
        watch.wait(lambda: {k: v for k, v in contents(out).items() if k in holds} ==
                   {key: expected[seed] for key, seed in holds.items()})  # fmt: skip
        assert watch.end() == 0
        assert watch.events("failed") == []
    assert contents(out).keys() >= holds.keys()
    assert all(data in expected for data in contents(out).values())
    early, late = usage[len(usage) // 4], usage[-1]
    assert late[1] <= early[1] + 5
    assert late[0] <= early[0] + 30_000_000


def write_on(slow: dict[str, tuple[int, BinaryIO]], photos: list[bytes]) -> None:
    """The next bytes of each file that is written slowly."""
    for key, (seed, file) in list(slow.items()):
        file.write(photos[seed][file.tell() :][:2000])
        if file.tell() == len(photos[seed]):
            file.close()
            del slow[key]


def test_twenty_files_a_second(inbox: Path, tmp_path: Path, out: Path) -> None:
    twenty_a_second(8, inbox, tmp_path, out)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twenty_files_a_second_for_ten_minutes(inbox: Path, tmp_path: Path, out: Path) -> None:
    twenty_a_second(600, inbox, tmp_path, out)


def test_a_large_image_is_done_in_tiles(inbox: Path, tmp_path: Path, out: Path) -> None:
    drawn = draw(tmp_path / "large.png", 3, 900, 700)
    with Watching("gaussian_blur 2", inbox, out, "--tile", "always") as watch:
        watch.wait(out.exists)
        shutil.copy(drawn, inbox / "large.png")
        watch.wait_for("large.png")
        assert watch.end() == 0
    assert contents(out) == made_of(inbox, tmp_path, "gaussian_blur 2")


def test_three_outputs_over_the_engine_pipeline(inbox: Path, photo: bytes, tmp_path: Path, out: Path) -> None:
    with Watching(*THREE, inbox, out, "--engine", "pipeline") as watch:
        watch.wait(out.exists)
        move_in(photo, inbox / "1.jpg")
        watch.wait_for("1.jpg")
        assert watch.end() == 0
    assert names(out) == ["blur", "blur/1.jpg", "edges", "edges/1.jpg", "gray", "gray/1.jpg"]
    assert imageloom("run", *THREE, inbox, tmp_path / "expected").returncode == 0
    assert contents(out) == contents(tmp_path / "expected")
