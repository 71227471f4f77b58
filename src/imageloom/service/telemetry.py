"""OpenTelemetry: the metrics of a run, and traces of failures and of a sample of items, sent to a collector.

The metrics have the names of /metrics (`health`). Traces have the names of items; metrics do not. A collector that
does not answer costs a run no more than a short wait at its end.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from imageloom import __version__
from imageloom.errors import MissingExtra, UsageError
from imageloom.model import Result
from imageloom.records.events import Done, Event, Failed, Retried
from imageloom.service.health import Metric

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

_TIMEOUT = 3
"""Seconds that one request to the collector, or the last one of a run, may take."""
_INTERVAL = 10_000
"""Milliseconds between two exports of metrics."""
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Telemetry:
    """A context manager and listener that sends a run's metrics and traces by OTLP over HTTP.

    Args:
        address: URL of the collector, such as http://127.0.0.1:4318.
        share: share of the items that are done which are traced, from 0 to 1. Failed attempts always are.
        measure: returns the metrics.
        warn: called once, with a sentence, if the collector cannot be reached.

    Raises:
        UsageError: the address is not a URL of http or https, or has a password.
        MissingExtra: OpenTelemetry is not installed.
    """

    def __init__(
        self, address: str, share: float, measure: Callable[[], Iterable[Metric]], warn: Callable[[str], None]
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"--otlp {parts.hostname or address}: expected http://HOST:PORT or https://HOST:PORT"
            )
        if parts.username or parts.password:
            raise UsageError("--otlp: a password in the address is refused; use OTEL_EXPORTER_OTLP_HEADERS")
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise MissingExtra("--otlp", "otel") from None
        self._share, self._measure = share, measure
        self._logs = logging.getLogger("opentelemetry")
        self._handler = _Once(lambda: warn(f"telemetry: {parts.netloc} (--otlp) does not take all data"))
        resource = Resource.create({"service.name": "imageloom", "service.version": __version__})
        base = address.rstrip("/")
        exporter = OTLPMetricExporter(f"{base}/v1/metrics", timeout=_TIMEOUT)
        reader = PeriodicExportingMetricReader(exporter, _INTERVAL, _TIMEOUT * 1000)
        self._metrics = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._traces.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(f"{base}/v1/traces", timeout=_TIMEOUT))
        )
        self._tracer = self._traces.get_tracer("imageloom", __version__)

    def __enter__(self) -> Telemetry:
        self._logs.addHandler(self._handler)
        self._logs.propagate = False
        meter = self._metrics.get_meter("imageloom", __version__)
        for name, kind, what, _ in self._measure():
            create = meter.create_observable_counter if kind == "counter" else meter.create_observable_gauge
            create(name, [self._observer(name)], description=what)
        return self

    def __exit__(self, *_: object) -> None:
        self._traces.shutdown()
        self._metrics.shutdown(timeout_millis=_TIMEOUT * 1000)
        self._logs.removeHandler(self._handler)
        self._logs.propagate = True

    def __call__(self, event: Event) -> None:
        match event:
            case Done(result, attempt, worker):
                if zlib.crc32(result.key.encode(errors="replace")) < self._share * (1 << 32):
                    self._trace(result, attempt, worker)
            case Failed(result, attempt, worker) | Retried(result, attempt, worker):
                self._trace(result, attempt, worker)

    def _observer(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observe(options: CallbackOptions) -> list[Observation]:
            found = (metric.values for metric in self._measure() if metric.name == name)
            return [
                Observation(value, dict(_LABEL.findall(label)))
                for values in found
                for label, value in values.items()
            ]

        return observe

    def _trace(self, result: Result, attempt: int, worker: str) -> None:
        """One span for an attempt, with a child for each stage, in the order of the stages."""
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        at = round(result.started * 1e9)
        failure = result.failure
        item = self._tracer.start_span("item", start_time=at)
        item.set_attributes(
            {
                "imageloom.item": result.key.encode(errors="backslashreplace").decode(),
                "imageloom.attempt": attempt,
                "imageloom.worker": worker,
                "imageloom.pixels": result.pixels,
            }
        )
        inside = set_span_in_context(item)
        for stage in ("read", "decode", "filter", "encode", "write"):
            end = at + round(getattr(result.times, stage) * 1e9)
            if end > at:
                self._tracer.start_span(stage, inside, start_time=at).end(end)
            at = end
        if failure:
            item.set_attribute("error.type", failure.kind)
            item.set_status(Status(StatusCode.ERROR, failure.message.encode(errors="replace").decode()))
        item.end(at)  # the stages' times, one after the other


class _Once(logging.Handler):
    """Calls a function at the first warning, and drops all further ones."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._call = call
        self._has_called = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._has_called:
            self._has_called = True
            self._call()
