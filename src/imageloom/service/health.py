"""Health of a long-running role over HTTP: /health, /ready, and /metrics in the format of Prometheus.

It is for probes and scrapers: it is read-only, and shows no names of files.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple

from imageloom.engines import Engine
from imageloom.errors import StorageError, UsageError
from imageloom.records.events import Began, Collected, Done, Event, Failed, Retried, Skipped, Started
from imageloom.records.losses import Losses
from imageloom.scheduling.fleet import Fleet
from imageloom.service.probes import MOST_CONNECTIONS, ProbeServer
from imageloom.system.sandbox import Sandbox


class Metric(NamedTuple):
    """A metric: one number, or several numbers with labels."""

    name: str
    kind: Literal["counter", "gauge"]
    what: str
    values: dict[str, float]
    """Values by label, such as `outcome="done"`. The label is empty for a single value."""


class Tally:
    """Counts the events of a run, and the reports of worker processes.

    Args:
        sandbox: how they decode items.
    """

    def __init__(self, sandbox: Sandbox = Sandbox()) -> None:  # noqa: B008 frozen
        self._sandbox = sandbox
        self.has_begun = False
        self._items = {"done": 0, "failed": 0, "skipped": 0}
        self._retried = self._in_flight = self._bytes = 0
        self._losses = Losses()

    def __call__(self, event: Event) -> None:
        match event:
            case Began():
                self.has_begun = True
            case Started():
                self._in_flight += 1
            case Collected():
                self._in_flight -= event.is_last
            case Done(result):
                self.count("done", sum(written.size for written in result.written))
                self._losses.add(result)
            case Failed():
                self.count("failed")
            case Skipped():
                self.count("skipped")
            case Retried():
                self._retried += 1

    def count(self, outcome: str, size: int = 0) -> None:
        self._items[outcome] += 1
        self._bytes += size

    def receive(self, line: Connection) -> None:
        """Count the reports of workers from a pipe until its end."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                outcome, _, size = line.recv_bytes().decode().partition(" ")
                self.count(outcome, int(size))

    def of_run(self, engine: Engine) -> Iterator[Metric]:
        """The metrics of a run."""
        yield self._outcomes("Items of the run, by outcome.")
        yield Metric("imageloom_retries_total", "counter", "Attempts that failed and were followed by another.",
                     {"": self._retried})  # fmt: skip
        yield self._written()
        yield from self._lost()
        yield Metric("imageloom_tasks_in_flight", "gauge", "Tasks in the engine.", {"": self._in_flight})
        yield _workers(engine.capacity)
        yield _sandbox(self._sandbox)
        if lag := engine.lag():
            by_stream = {f'stream="{stream}"': float(count) for stream, count in lag.items()}
            yield Metric(
                "imageloom_stream_lag", "gauge", "Tasks in a stream that no worker has taken.", by_stream
            )

    def of_workers(self, fleet: Fleet) -> Iterator[Metric]:
        """The metrics of worker processes. Each attempt counts as an item."""
        yield self._outcomes("Attempts of these workers, by outcome.")
        yield self._written()
        yield Metric(
            "imageloom_worker_deaths_total", "counter", "Worker processes that died.", {"": fleet.deaths}
        )
        yield _workers(len(fleet.pids))
        yield _sandbox(self._sandbox)

    def _outcomes(self, what: str) -> Metric:
        by_outcome = {f'outcome="{outcome}"': float(count) for outcome, count in self._items.items()}
        return Metric("imageloom_items_total", "counter", what, by_outcome)

    def _lost(self) -> Iterator[Metric]:
        """Metrics of losses and of damaged files. A thing that no file has lost has no value."""
        losses = self._losses
        by_thing = {f'thing="{thing}"': float(count) for thing, count in losses.dropped.items()}
        yield Metric(
            "imageloom_losses_total", "counter", "Items whose outputs lack something, by thing.", by_thing
        )
        by_state = {
            'state="complete"': float(losses.damaged - losses.incomplete),
            'state="incomplete"': float(losses.incomplete),
        }
        yield Metric(
            "imageloom_damaged_items_total",
            "counter",
            "Damaged items, by whether they lack pixels.",
            by_state,
        )

    def _written(self) -> Metric:
        return Metric("imageloom_output_bytes_total", "counter", "Bytes of outputs.", {"": self._bytes})


def _workers(count: int) -> Metric:
    return Metric("imageloom_workers", "gauge", "Workers that are running.", {"": count})


def _sandbox(sandbox: Sandbox) -> Metric:
    from imageloom.system import landlock, seccomp  # few runs need them

    kernel = f'landlock="{landlock.version()}",seccomp="{int(seccomp.is_available())}"'
    label = f'mode="{sandbox.mode}",untrusted="{int(sandbox.untrusted)}",{kernel}'
    what = "Whether items are decoded in sandboxed processes, and what the kernel restricts."
    return Metric("imageloom_sandbox", "gauge", what, {label: float(sandbox.is_on)})


class Health:
    """A context manager that runs the HTTP server in its own thread.

    Args:
        address: a port, which only this machine can reach, or HOST:PORT. Port 0 is any free port.
        is_ready: returns whether the role is working. While it drains, it is healthy but not ready.
        measure: returns the metrics. Called for each scrape.

    Raises:
        UsageError: the address is invalid.
        StorageError: it cannot listen on the address.
    """

    def __init__(
        self, address: str, is_ready: Callable[[], bool], measure: Callable[[], Iterable[Metric]]
    ) -> None:
        self.is_ready, self.measure = is_ready, measure
        host, port = _split(address)
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            listener = socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
        except OSError as error:
            raise StorageError(f"cannot listen on {host}:{port} (--health): {error.strerror}") from None
        self.address = f"{host}:{listener.getsockname()[1]}"
        # An engine may have to ask its broker for metrics.
        self._server = ProbeServer(listener, self.answer, slow=("/metrics",))

    def __enter__(self) -> Health:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def answer(self, path: str) -> tuple[int, str]:
        """The HTTP status and the text for a path."""
        if path == "/health":
            return 200, "ok\n"
        if path == "/ready":
            return (200, "ready\n") if self.is_ready() else (503, "not ready\n")
        if path == "/metrics":
            return 200, to_text(self.measure())
        return 404, "not found: the paths are /health, /ready and /metrics\n"


def to_text(metrics: Iterable[Metric]) -> str:
    """Metrics in the text format of Prometheus."""
    lines = []
    for name, kind, what, values in metrics:
        lines += [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{{{label}}} {value:.15g}" if label else f"{name} {value:.15g}"
                  for label, value in values.items()]  # fmt: skip
    return "\n".join([*lines, ""])


def _split(address: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:(.+):)?(\d{1,5})", address)
    if found is None or int(found[2]) > 65535:
        raise UsageError(f"--health {address}: expected PORT or HOST:PORT")
    return found[1] or "127.0.0.1", int(found[2])
