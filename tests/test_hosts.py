"""Engines on several hosts: the outputs are those of the engine serial, whatever happens to hosts and links."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from testservers.servers import PATIENCE

from hosts.cases import FAULTS, FILTERS, expected_of, photos_of, run_case
from hosts.cluster import ENGINES, PYTHON, STORAGES, Cluster, cluster
from hosts.network import SHARED, Host, Network, missing
from program import wait_until

if missing() and "CI" not in os.environ:
    pytest.skip(missing(), allow_module_level=True)

DIAL = "import socket, sys; socket.create_connection((sys.argv[1], 8000), 0.5).close()"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos_of(tmp_path_factory.mktemp("hosts") / "photos", 12)


@pytest.fixture(scope="module")
def expected(photos: Path) -> dict[str, bytes]:
    return expected_of(photos, photos.parent)


def run(
    made: Cluster, photos: Path, pipeline: str = FILTERS, *more: object
) -> tuple[int, dict[str, bytes], str]:
    """Run a pipeline over the photos: the exit code, the outputs, and what the driver wrote."""
    made.put(photos, "photos")
    running = made.start(pipeline, "photos", "out", *more)
    code = running.wait(PATIENCE)
    return code, made.contents("out"), (made.driver.home / "run.log").read_text()


def test_hosts_share_nothing_but_the_network(tmp_path: Path) -> None:
    with Network(tmp_path) as network:
        one, two = network.host("one"), network.host("two", clock=600, disk="1m")
        (tmp_path / "shared" / "file").write_text("for all")
        one.run("touch", "/tmp/own", "/home/own", "/mnt/own")
        assert two.run("sh", "-c", "ls /tmp /home /mnt /srv | grep -v :; hostname").split() == ["file", "two"]
        clocks = [int(host.run("date", "+%s")) for host in (one, two)]
        assert 595 < clocks[1] - clocks[0] < 605
        two.fill()
        with pytest.raises(RuntimeError, match="No space left"):
            two.run("cp", "/etc/hosts", "/mnt/file")
        two.make_room()
        serving = one.start(PYTHON, "-S", "-m", "http.server", "8000")
        wait_until(lambda: reaches(two, "one"))
        for cut in (one.cut, one.cut_incoming, one.cut_outgoing):
            cut()
            assert not reaches(two, "one")
            one.mend()
            assert reaches(two, "one")
        one.power_off()
        assert serving.wait(PATIENCE) != 0
        assert not reaches(two, "one")
        one.power_on()
        assert one.run("ls", "/tmp", "/home", "/mnt").split() == ["/home:", "own", "/mnt:", "own", "/tmp:"]


def reaches(host: Host, name: str) -> bool:
    try:
        host.run(PYTHON, "-S", "-c", DIAL, name)
    except RuntimeError:
        return False
    return True


def test_a_host_that_does_not_see_the_folder_gets_no_items(
    tmp_path: Path, photos: Path, expected: dict[str, bytes]
) -> None:
    with cluster(tmp_path, "zeromq", "folder", workers=("one", "two")) as made:
        made.workers[0].run("umount", SHARED)
        code, outputs, said = run(made, photos, f"nap 0.1 | {FILTERS}")
        assert (code, outputs) == (0, expected), made.logs()
        assert f"{SHARED}/photos does not exist on one" in said
        assert '"again"' not in (made.driver.home / "items.log").read_text()


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ["zeromq", "redis", "nodes"])
def test_where_all_hosts_refuse_the_items_fail_by_name(engine: str, tmp_path: Path, photos: Path) -> None:
    with cluster(tmp_path, engine, "folder") as made:
        for host in made.workers:
            host.run("umount", SHARED)
        code, outputs, said = run(made, photos)
        assert (code, outputs) == (1, {})
        assert f"{SHARED}/photos does not exist on " in said


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ENGINES)
def test_tiles_lie_where_all_workers_reach_them(
    engine: str, tmp_path: Path, photos: Path, expected: dict[str, bytes]
) -> None:
    """With a sink in a store, an image is processed as a whole, unless --scratch is a folder that all share."""
    with cluster(tmp_path, engine, "s3") as made:
        code, outputs, said = run(made, photos, FILTERS, "--tile", "always")
        assert code == 1
        assert "tiles need a folder that all workers reach" in said
        assert not outputs


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("engine", "storage", "fault"), [*itertools.product(ENGINES, STORAGES, FAULTS)])
def test_faults(engine: str, storage: str, fault: str, tmp_path: Path) -> None:
    photos = photos_of(tmp_path / "photos", 100)
    outcome = run_case(tmp_path, engine, storage, fault, photos, expected_of(photos, tmp_path))
    assert not outcome.faults
