"""Several runs at once into one sink, each of a shard of the source."""

from __future__ import annotations

import contextlib
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from imageloom.api import process
from imageloom.errors import SinkBusy, UsageError
from imageloom.model import Shard
from imageloom.records.doctor import find
from imageloom.records.ledger import Ledger
from imageloom.stores.fsspec import FsspecStore
from imageloom.stores.names import STAGING, is_token, job_of, new_token, own_tokens
from program import contents, draw, imageloom, kill, start, wait_until, working

RECIPE = "resize 50%"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(24):
        draw(folder / f"{number % 3}" / f"{number}.jpg", seed=number)
    return folder


def shards(count: int, photos: Path, out: Path, *options: object) -> list[subprocess.Popen[str]]:
    """All shards at once."""
    return [one(f"{number}/{count}", photos, out, *options) for number in range(1, count + 1)]


def one(shard: str, photos: Path, out: Path, *options: object) -> subprocess.Popen[str]:
    arguments = ("--shard", shard, "--engine", "threads", "-j", 1, *options)
    return start("run", RECIPE, photos, out, *arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def held(shard: str, photos: Path, out: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of a shard that waits in an operator until the end of the block."""
    gate = tmp_path / f"gate-{shard.replace('/', '-')}"
    gate.touch()
    code = (
        "import os, time\nfrom imageloom.operators import operator\n"
        "@operator('point', examples=('waiting',))\ndef waiting(image):\n"
        f"    while os.path.exists({str(gate)!r}):\n        time.sleep(0.01)\n    return image\n"
    )
    operators = gate.with_suffix(".py")
    operators.write_text(code)
    arguments = ("--operators", operators, "--shard", shard, "--engine", "threads", "-j", 1)
    running = start("run", "waiting", photos, out, *arguments, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        gate.unlink(missing_ok=True)
        running.wait(60)


def done() -> Counter[str]:
    """How often each item was done, by the ledger."""
    with Ledger() as ledger:
        return Counter(item.key for job in ledger.jobs() for item in ledger.items(job.id, "done"))


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "1/65537", "a/b", "-1/4", "1/4/5", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Shard.of(text)


def test_each_key_has_one_shard_for_ever() -> None:
    keys = [f"folder/{number}.jpg" for number in range(4000)]
    shares = Counter(n for key in keys for n in range(1, 17) if Shard(n, 16).has(key))
    assert sum(shares.values()) == len(keys)
    assert min(shares.values()) > 180
    known = {"a.jpg": 10, "b/c.png": 47, "ä\udcff": 61}
    assert all(Shard(number, 64).has(key) for key, number in known.items())


def test_tokens_of_a_shard_are_its_own() -> None:
    token = new_token(job_of(3, 12), 1, 1)
    assert is_token(token)
    assert token.startswith(own_tokens(3))
    assert not new_token(job_of(0, 312), 1, 1).startswith(own_tokens(3))
    assert not new_token(job_of(31, 2), 1, 1).startswith(own_tokens(3))


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 4])
def test_shards_at_once_make_what_one_run_makes(photos: Path, tmp_path: Path, count: int) -> None:
    out, alone = tmp_path / "out", tmp_path / "alone"
    runs = shards(count, photos, out)
    said = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * count, said
    assert set(done().values()) == {1}
    assert len(done()) == 24
    assert imageloom("run", RECIPE, photos, alone, "--ledger", tmp_path / "other.db").returncode == 0
    assert contents(out) == contents(alone)
    assert not (out / STAGING).exists()
    again = imageloom("run", RECIPE, photos, out, "--shard", "1/3", "--json")
    assert '"done":0' in again.stdout
    whole = imageloom("run", RECIPE, photos, out)
    assert "all 24 are up to date" in whole.stdout


def test_a_killed_shard_is_started_again_while_others_run(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with held("1/2", photos, out, tmp_path) as other:
        wait_until((out / STAGING / "shard-1-of-2").exists)
        with held("2/2", photos, out, tmp_path) as killed:
            wait_until((out / STAGING / "shard-2-of-2").exists)
            kill(killed)
        left = out / STAGING / new_token(job_of(2, 5), 1, 1)
        others = out / STAGING / new_token(job_of(1, 5), 1, 1)
        left.write_bytes(b"left")
        others.write_bytes(b"in work")
        run = one("2/2", photos, out)
        said = run.communicate(timeout=60)[1]
        assert run.returncode == 0, said
        assert not left.exists()
        assert others.exists()
        assert other.poll() is None
        with Ledger() as ledger:
            states = [job.state for job in ledger.jobs()]
        assert states == ["done", "killed", "running"]
    assert other.returncode == 0
    assert not (out / STAGING).exists()


def test_who_writes_into_a_sink_is_refused_by_name(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with held("1/2", photos, out, tmp_path) as running:
        wait_until((out / STAGING / "shard-1-of-2").exists)
        for shard, named in {"1/2": "shard 1/2 is writing", "1/3": "shard 1/3 has another count"}.items():
            with pytest.raises(SinkBusy, match=named) as error:
                process(RECIPE, photos, out, shard=shard, ledger=tmp_path / "other.db")
            assert f"process {working(running).pid} on " in str(error.value)
        with pytest.raises(SinkBusy, match="is writing into"):
            process(RECIPE, photos, out)
        with Ledger() as ledger:
            assert not [found for found in find(ledger, [str(out)]) if str(out) in found.name]
        assert process(RECIPE, photos, out, shard="2/2").exit_code == 0
        assert (out / STAGING / "shard-1-of-2").exists()
        assert not (out / STAGING / "shard-2-of-2").exists()
    assert process(RECIPE, photos, out, shard="1/3").exit_code == 0


def test_a_store_on_a_server_keeps_the_staged_files_of_other_shards() -> None:
    store = FsspecStore("memory://shards/out")
    folder, files = f"/shards/out/{STAGING}", fsspec.filesystem("memory")
    tokens = [f"{folder}/{new_token(job_of(shard, 1), 1, 1)}" for shard in (1, 2)]
    for token in tokens:
        files.pipe_file(token, b"staged")
    store.own = own_tokens(2)
    store.prepare()
    assert files.ls(folder, detail=False) == tokens[:1]
    files.pipe_file(tokens[1], b"staged")
    store.tidy()
    assert files.ls(folder, detail=False) == tokens[:1]
    store.own = ""
    store.prepare()
    store.tidy()
    assert not files.exists(folder)


def test_google_drive_takes_no_shards(photos: Path) -> None:
    with pytest.raises(UsageError, match="--shard excludes a sink in Google Drive"):
        process(RECIPE, photos, "gdrive://folder", shard="1/2")


def test_images_are_replaced_by_shards(photos: Path) -> None:
    before = contents(photos)
    runs = [
        start("run", RECIPE, photos, "--in-place", "--shard", f"{number}/2", stderr=subprocess.DEVNULL)
        for number in (1, 2)
    ]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert set(done().values()) == {1}
    after = contents(photos)
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


def test_pruning_is_that_of_the_shard(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert process(RECIPE, photos, out).exit_code == 0
    mine, others = (
        [p for p in sorted(photos.rglob("*.jpg")) if Shard(n, 2).has(str(p.relative_to(photos)))]
        for n in (1, 2)
    )
    mine[0].unlink()
    others[0].unlink()
    assert process(RECIPE, photos, out, shard="1/2", prune=True).exit_code == 0
    assert not (out / mine[0].relative_to(photos)).exists()
    assert (out / others[0].relative_to(photos)).exists()


@pytest.mark.long
def test_items_of_two_shards_do_not_share_a_name(tmp_path: Path) -> None:
    """Exactly one of the items of a name is done, and the ledger knows which."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    for folder in ("a", "b", "c", "d"):
        for number in range(3):
            draw(photos / folder / f"{number}.jpg", seed=hash((folder, number)) % 1000)
    runs = shards(4, photos, out, "--flatten")
    for run in runs:
        run.communicate(timeout=60)
    found = done()
    assert sorted(key[2:] for key in found) == ["0.jpg", "1.jpg", "2.jpg"]
    expected = tmp_path / "expected"
    arguments = ("--ledger", tmp_path / "other.db")
    assert imageloom("run", RECIPE, photos, expected, *arguments).returncode == 0
    for key in found:
        assert (out / key[2:]).read_bytes() == (expected / key).read_bytes()


@pytest.mark.long
def test_a_shard_without_items_is_no_error(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "1.jpg")
    codes = [
        imageloom("run", RECIPE, tmp_path / "photos", tmp_path / "out", "--shard", f"{n}/3").returncode
        for n in (1, 2, 3)
    ]
    assert codes == [0, 0, 0]
    assert len(contents(tmp_path / "out")) == 1
