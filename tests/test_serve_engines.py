"""The service with workers elsewhere, which are started by `imageloom worker`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import imageloom
from imageloom.api import process
from program import contents, draw, wait_until
from program import imageloom as run_program
from redis_servers import GivenServer, Workers
from serving import hosted_in


def test_workers_elsewhere_do_the_jobs_and_previews_are_made_here(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for number in range(6):
        draw(root / "in" / f"{number}.jpg", number)
    process("resize 50%", root / "in", tmp_path / "expected")
    with (
        closing(GivenServer(tmp_path / "redis")) as server,
        closing(Workers()) as workers,
        hosted_in(tmp_path, engine="redis", connect=server.url) as site,
        imageloom.Client(site.url, site.tokens["operator"]) as client,
    ):
        assert client.preview(str(root / "in"), "resize 50%").sample == "0.jpg"
        job = {"source": str(root / "in"), "sink": str(root / "out"), "recipe": "resize 50%"}
        id = client.submit("elsewhere", job).id
        assert client.job(id).done == 0
        workers.start(server.url, root)
        wait_until(lambda: client.workers().workers == 1)
        assert client.wait(id, 60).done == 6
    assert contents(root / "out") == contents(tmp_path / "expected")


def test_an_engine_elsewhere_needs_its_address() -> None:
    done = run_program("serve", "--root", "/tmp", "--engine", "redis")
    assert done.returncode == 2
    assert "--connect" in done.stderr
