"""Engine redis against processes and Celery, and the memory of its server.

    python -m benchmarks.redis_streams [--photos FOLDER] [--pairs 5] [--tasks 3000] [--items 1000000]

Without a folder of real photos, drawn ones are used. Celery's row needs `pip install 'celery[redis]'`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections import deque
from pathlib import Path

from benchmarks.harness import (
    PEERS,
    PYTHON,
    fresh,
    header,
    photos_and_camera,
    repeated,
    report,
    run_command,
    workplace,
)
from imageloom.engines import Settings
from imageloom.engines.redis.engine import RedisStreams
from imageloom.engines.redis.server import Server
from imageloom.engines.redis.wire import connect
from imageloom.model import Item, Limits, Output, Recipe, Task, Work

WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="small photos, all JPEG")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=3000, help="empty ones, in each round")
    parser.add_argument("--items", type=int, default=0, help="that are asked for, for the server's memory")
    given = parser.parse_args()
    with workplace() as folder:
        (folder / "camera").mkdir()
        photos, _ = photos_and_camera(given.photos, folder / "camera", folder)
        many = repeated(photos, folder / "many", 10)
        if given.pairs:
            header()
            ours, theirs = (
                run_command("resize 512x512", many, folder / name, "-j2", "--engine", name, name=name)
                for name in ("redis", "processes")
            )
            report("photos -> 512x512 JPEG", "1.15", ours, theirs, given.pairs)
            fresh(folder / "redis")
        if given.tasks:
            against_celery(folder, given.tasks, max(given.pairs, 3))
        if given.items:
            server_memory(folder, given.items)


def against_celery(folder: Path, count: int, rounds: int) -> None:
    """Seconds for each task that does nothing, in turn on one server."""
    server = Server()
    try:
        pairs = [(our_tasks(server, folder, count), celery_tasks(server, count)) for _ in range(rounds)]
    finally:
        server.close()
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    ours, theirs = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"| empty tasks, 2 workers | Celery, prefork | 0.5 | {ratio:.2f} | {ours:.2f} ms, {theirs:.2f} ms |"
    )


def our_tasks(server: Server, folder: Path, count: int) -> float:
    engine = RedisStreams(Settings(WORKERS, connect=server.url))
    try:
        for future in [engine.submit(brief_task(folder, number)) for number in range(200)]:
            future.result()
        began = time.perf_counter()
        for future in [engine.submit(brief_task(folder, number)) for number in range(count)]:
            future.result()
        return (time.perf_counter() - began) / count
    finally:
        engine.close()


def brief_task(folder: Path, number: int) -> Task:
    """A task that is over at once: its file is empty."""
    (folder / ".imageloom").mkdir(exist_ok=True)
    (folder / "empty.jpg").touch()
    work = Work(Item("empty.jpg"), ("empty.jpg",), number)
    return Task(number, "1", str(folder), str(folder), Recipe((Output(()),)), Limits(), (work,))


def celery_tasks(server: Server, count: int) -> float:
    url = server.url.replace("unix://", "redis+socket://")
    command = [PYTHON, str(PEERS / "celery_tasks.py"), url, str(count), str(WORKERS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise SystemExit(f"Celery failed: {done.stderr[-2000:]}")
    return float(done.stdout)


def server_memory(folder: Path, count: int) -> None:
    """The server's memory while many items are asked for, 50 in a task, in a window as the driver keeps it."""
    server = Server()
    client = connect(server.url)
    engine = RedisStreams(Settings(WORKERS, connect=server.url))
    most = 0
    try:
        window: deque[object] = deque()
        one = brief_task(folder, 0)
        work = one.work * 50
        for number in range(count // len(work)):
            if len(window) == 3 * WORKERS:
                window.popleft().result()  # type: ignore[attr-defined]
            task = Task(number, one.job, one.source, one.sink, one.recipe, one.limits, work)
            window.append(engine.submit(task))
            if number % 200 == 0:
                most = max(most, resident(server.pid))
        peak = client.info("memory")["used_memory_peak"]
    finally:
        engine.close()
        client.close()
        server.close()
    print(f"the server's memory at {count:,} items: {most >> 20} MB resident, {peak >> 20} MB in use at most")


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
