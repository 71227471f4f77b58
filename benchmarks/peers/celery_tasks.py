"""Celery with a task that does nothing: what a task costs on the same server.

celery_tasks.py URL COUNT WORKERS
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from celery import Celery, group

app = Celery("celery_tasks")
app.config_from_object(
    {"task_serializer": "json", "result_expires": 600, "broker_connection_retry_on_startup": True}
)


@app.task  # type: ignore[untyped-decorator]  # its types are unknown here
def nothing(number: int) -> int:
    return number


def main() -> None:
    url, count, workers = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    app.conf.update(broker_url=url, result_backend=url)
    command = [sys.executable, "-m", "celery", "-A", "celery_tasks", "--broker", url, "--result-backend", url]
    command += ["worker", "--pool", "prefork", "--concurrency", workers, "--loglevel", "ERROR"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    silent = subprocess.DEVNULL
    worker = subprocess.Popen(command, cwd=Path(__file__).parent, stderr=silent, stdout=silent)
    try:
        run(200)
        began = time.perf_counter()
        run(count)
        print((time.perf_counter() - began) / count)
    finally:
        worker.terminate()
        worker.wait(30)


def run(count: int) -> None:
    """All tasks at once, and all their results: `celery_tasks.nothing` is how the worker knows it."""
    signature = app.signature("celery_tasks.nothing")
    results = group(signature.clone((number,)) for number in range(count)).apply_async()
    assert results.get(timeout=120) == list(range(count))


if __name__ == "__main__":
    main()
