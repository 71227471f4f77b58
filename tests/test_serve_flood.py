"""A flood: 200 event streams, one that reads nothing, and as many requests as two processes send, for a minute."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from program import wait_until
from served import Served

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
STREAMS = 200
SECONDS = float(os.environ.get("SECONDS", "60"))
PAGES, EVENTS, MEMORY = 0.5, 1.0, 50e6
"""Maximum seconds for pages and for events at the 99th percentile; bytes of more memory."""

log = logging.getLogger(__name__)

_FLOOD = """
import asyncio, sys, json
from urllib.parse import urlsplit

url, token, seconds, host = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
parts = urlsplit(url)
answers = {}
head = f"Host: {parts.netloc}\\r\\nAuthorization: Bearer {token}\\r\\n\\r\\n"
request = f"GET /api/v1/jobs HTTP/1.1\\r\\n{head}".encode()

async def flood(until):
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(host, 0))
            while loop.time() < until:
                writer.write(request)
                head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode().lower()
                status = head.split()[1]
                answers[status] = answers.get(status, 0) + 1
                await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
        except (OSError, asyncio.IncompleteReadError):
            answers["closed"] = answers.get("closed", 0) + 1

async def main():
    until = asyncio.get_running_loop().time() + seconds
    await asyncio.gather(*(flood(until) for _ in range(60)))

asyncio.run(main())
print(json.dumps(answers))
"""


def test_a_flood_is_held_off_and_pages_and_events_go_on(tmp_path: Path) -> None:
    served = Served(tmp_path)
    silent = None
    try:
        served.write("web")
        token = served.token("operator")
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=served.url, headers=headers, timeout=30.0) as client:
            for _ in range(20):
                assert client.get("").status_code in (200, 303)
            wait_until(lambda: client.get("api/v1/flows").json()["flows"])
            silent = _silent(served.url, token)
            before = _memory(served.process.pid)
            times, lags, answers = asyncio.run(_measure(served.url, token, client))
            grown = _memory(served.process.pid) - before
    finally:
        if silent:
            silent.close()
        served.end()
    page, event = statistics.quantiles(times, n=100)[-1], statistics.quantiles(lags, n=100)[-1]
    log.info(
        "pages %.3f s and events %.3f s at the 99th percentile (%d, %d), %.1f MB more, answers %s",
        page, event, len(times), len(lags), grown / 1e6, answers,
    )  # fmt: skip
    assert answers.get("200", 0) > 100
    assert answers.get("429", 0) > 100, "what is too much is refused"
    assert len(lags) > 100 * STREAMS / 10
    assert (page < PAGES, event < EVENTS, grown < MEMORY) == (True, True, True), (page, event, grown)


async def _measure(
    url: str, token: str, client: httpx.Client
) -> tuple[list[float], list[float], dict[str, int]]:
    lags: list[float] = []
    times: list[float] = []
    readers = [asyncio.create_task(_read(url, token, lags)) for _ in range(STREAMS - 1)]
    await asyncio.sleep(
        3.0
    )  # all streams are open: those that are not would be missed in the number of events
    command = [sys.executable, "-c", _FLOOD, url, token, str(SECONDS)]
    floods = [
        subprocess.Popen([*command, f"127.0.0.{number}"], stdout=subprocess.PIPE, text=True)
        for number in (2, 3)
    ]
    until = time.monotonic() + SECONDS
    number = 0
    try:
        while time.monotonic() < until:
            number += 1
            began = time.monotonic()
            answer = await asyncio.to_thread(client.get, "", headers={"Accept": "text/html"})
            assert answer.status_code == 200, answer.text
            times.append(time.monotonic() - began)
            key = f"{number} {time.time()}"
            answer = await asyncio.to_thread(client.post, "api/v1/flows/web/aside", json={"key": key})
            assert answer.status_code == 200
            await asyncio.sleep(0.3)  # the rate of the measurements
        await asyncio.sleep(2.0)  # the last events arrive: how many do is checked
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        answers: dict[str, int] = {}
        for flood in floods:
            for status, count in json.loads(flood.communicate(timeout=60)[0]).items():
                answers[status] = answers.get(status, 0) + count
    return times, lags, answers


async def _read(url: str, token: str, lags: list[float]) -> None:
    host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(_request(url, token))
        with suppress(asyncio.IncompleteReadError):
            while line := await reader.readline():
                if line.startswith(b"data: ") and b'"is_aside"' in line:
                    lags.append(time.time() - float(json.loads(line[6:])["key"].split()[1]))
    finally:
        writer.close()


def _silent(url: str, token: str) -> socket.socket:
    """A client that asks for a stream, and reads nothing of it."""
    host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    found.connect((host, int(port)))
    found.sendall(_request(url, token))
    return found


def _request(url: str, token: str) -> bytes:
    host = url.removeprefix("http://").rstrip("/")
    return f"GET /api/v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def _memory(pid: int) -> int:
    found: int = psutil.Process(pid).memory_info().rss
    return found
