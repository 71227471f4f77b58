"""What runs and workers say of themselves over HTTP, read by Prometheus' own parser."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from imageloom.bench.samples import draw_photos
from imageloom.engines import Settings, open_engine
from imageloom.errors import StorageError, UsageError
from imageloom.records.events import Began
from imageloom.service.health import Health, Tally
from program import COMMAND, Run, draw, imageloom, line_of, start, wait_until
from redis_servers import GivenServer
from service import ONE_BY_ONE

SLOW = "resize 400x400 | median_blur 31"


def get(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape(address: str) -> dict[tuple[str, str], float]:
    """All samples, by name and by the one label."""
    status, text = get(address, "/metrics")
    assert status == 200
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation and family.type in ("counter", "gauge") for family in families)
    return {
        (sample.name.removeprefix("imageloom_"), "".join(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def address_of(program: subprocess.Popen[str]) -> str:
    """Where it says that it listens."""
    return line_of(program, "health ").split()[1]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GivenServer]:
    given = GivenServer(tmp_path / "server")
    yield given
    given.close()


def test_a_runs_numbers_are_those_of_its_summary(photos: Path, out: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no photo")
    engine, tally = open_engine("serial", Settings()), Tally()
    with Health("0", lambda: tally.has_begun, lambda: tally.of_run(engine)) as health:
        assert get(health.address, "/ready")[0] == 503
        run = Run("resize 50x40", photos, out, engine="serial")
        for event in run.events:
            tally(event)
        found = scrape(health.address)
        assert get(health.address, "/health") == (200, "ok\n")
        assert get(health.address, "/ready")[0] == 200
        assert get(health.address, "/etc/passwd")[0] == 404
    assert run.numbers == (6, 1, 0)
    assert [found["items_total", outcome] for outcome in ("done", "failed", "skipped")] == [6, 1, 0]
    assert found["output_bytes_total", ""] == sum(p.stat().st_size for p in out.rglob("*.jpg"))
    assert (found["tasks_in_flight", ""], found["workers", ""]) == (0, 1)


def test_a_run_and_its_workers_are_asked_while_they_work(tmp_path: Path, server: GivenServer) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    draw_photos(photos, 40)
    place = ["--engine", "redis", *server.place, "--health", "0"]
    worker = start("worker", *place, "--root", tmp_path, "-j", "2", stderr=subprocess.PIPE)
    wait_until(lambda: len(consumers(server)) == 2)
    command = [*ONE_BY_ONE, "run", SLOW, str(photos), str(out), *place]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        workers, driver = address_of(worker), address_of(run)
        assert workers.startswith("127.0.0.1:"), "nothing is shown to the network unless it was asked for"
        wait_until(lambda: scrape(driver)["items_total", "done"])
        found = scrape(driver)
        assert found["tasks_in_flight", ""] > 0
        assert found["items_total", "done"] < 40
        assert found["stream_lag", "imageloom:worker"] >= 2, (
            "a window waits for each worker: a scaler sees it"
        )
        assert found["stream_lag", "imageloom:assembler"] == 0
        assert get(workers, "/ready") == (200, "ready\n")
        assert scrape(workers)["workers", ""] == 2
        assert run.wait(60) == 0
        wait_until(lambda: scrape(workers)["items_total", "done"] == 40)
        found = scrape(workers)
        assert found["items_total", "failed"] == 0
        assert found["output_bytes_total", ""] == sum(p.stat().st_size for p in out.glob("*.jpg"))
        os.kill(consumers(server)[0], signal.SIGKILL)
        wait_until(lambda: scrape(workers)["worker_deaths_total", ""] == 1)
        wait_until(lambda: get(workers, "/ready")[0] == 200)
    finally:
        for program in (run, worker):
            program.kill()
            program.wait()
            if program.stderr:
                program.stderr.close()


def consumers(server: GivenServer) -> list[int]:
    """The processes that the server knows as workers."""
    if not server.client.exists("imageloom:worker"):
        return []
    found = server.client.xinfo_consumers("imageloom:worker", "imageloom")
    return [int(one["name"].split(b"/")[1]) for one in found]


GATE = """
import time
from pathlib import Path
from imageloom import Pixels, operator

@operator("point", examples=("gate",))
def gate(image: Pixels) -> Pixels:
    while not Path({!r}).exists():
        time.sleep(0.01)
    return image
"""


def test_a_worker_that_drains_is_alive_and_not_ready(tmp_path: Path, server: GivenServer) -> None:
    photo = draw(tmp_path / "photos" / "0.jpg")
    out, opened, operators = tmp_path / "out", tmp_path / "opened", tmp_path / "gate.py"
    operators.write_text(GATE.format(str(opened)))
    place = ["--engine", "redis", *server.place, "--operators", operators]
    worker = start("worker", *place, "--root", tmp_path, "-j1", "--health", "0", stderr=subprocess.PIPE)
    run = start("run", "gate", photo.parent, out, *place, stdout=subprocess.DEVNULL)
    try:
        address = address_of(worker)
        wait_until(lambda: server.client.exists("imageloom:worker"))
        wait_until(lambda: server.client.xpending("imageloom:worker", "imageloom")["pending"])
        worker.terminate()
        wait_until(lambda: get(address, "/ready")[0] == 503)
        assert get(address, "/health")[0] == 200
        assert worker.poll() is None, "it finishes what it has in hand"
        opened.touch()
        assert worker.wait(60) == 0
        assert run.wait(60) == 0
        assert (out / "0.jpg").exists()
    finally:
        for program in (run, worker):
            program.kill()
            program.wait()
        if worker.stderr:
            worker.stderr.close()


def test_a_client_that_says_nothing_holds_nobody_up() -> None:
    engine, tally = open_engine("serial", Settings()), Tally()
    tally(Began(1))
    with Health("127.0.0.1:0", lambda: tally.has_begun, lambda: tally.of_run(engine)) as health:
        host, _, port = health.address.partition(":")
        with socket.create_connection((host, int(port))) as silent:
            silent.sendall(b"GET /hea")
            assert get(health.address, "/ready")[0] == 200
            silent.setblocking(False)
            with pytest.raises(BlockingIOError):  # it is still waited for
                silent.recv(1)
            with pytest.raises(StorageError, match=f"cannot listen on 127.0.0.1:{port}"):
                Health(health.address, lambda: True, list)


@pytest.mark.parametrize("address", ["", "here", "localhost:", "1:99999", "-1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected PORT or HOST:PORT"):
        Health(address, lambda: True, list)


def test_without_the_flag_no_server_is_loaded(photos: Path, out: Path) -> None:
    code = f"import sys; {COMMAND[-1].replace('main()', '')}"
    code += "\ntry:\n    main()\nfinally:\n    assert 'http.server' not in sys.modules"
    arguments = ["run", "invert", str(photos), str(out), "-j", "1"]
    program = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(program, check=False, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert imageloom("run", "invert", photos, out, "--health", "nowhere").returncode == 2
