"""A collector of our own receives what a run sends by OTLP; a Parquet file has what the ledger has."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from imageloom.errors import UsageError
from imageloom.model import Failure, Times
from imageloom.records import parquet
from imageloom.records.ledger import Ledger
from imageloom.records.schema import ItemRecord
from imageloom.service.telemetry import Telemetry
from program import draw, free_port, imageloom


class Collector:
    """Receives OTLP over HTTP on loopback."""

    def __init__(self) -> None:
        self.metrics: dict[tuple[str, str], float] = {}
        self.spans: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.receive(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def receive(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            self.spans += [s for r in traces.resource_spans for scope in r.scope_spans for s in scope.spans]
            return
        assert path == "/v1/metrics"
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for metric in (m for scope in resource.scope_metrics for m in scope.metrics):
                for point in (*metric.sum.data_points, *metric.gauge.data_points):
                    labels = ",".join(a.value.string_value for a in point.attributes)
                    self.metrics[metric.name, labels] = point.as_double or point.as_int


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    found.thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    found.thread.join()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for number in range(4):
        draw(tmp_path / "photos" / f"{number}.jpg", number, 80, 60)
    (tmp_path / "photos" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path / "photos"


def test_a_collector_has_the_metrics_the_failures_and_a_sample(
    collector: Collector, photos: Path, tmp_path: Path
) -> None:
    flags = ("--otlp", collector.address, "--trace-sample", "1")
    ran = imageloom("run", "invert", photos, tmp_path / "out", *flags)
    assert ran.returncode == 1, ran.stderr
    assert "telemetry" not in ran.stderr
    assert collector.metrics["imageloom_items_total", "done"] == 4
    assert collector.metrics["imageloom_items_total", "failed"] == 1
    assert collector.metrics["imageloom_output_bytes_total", ""] > 1000
    assert collector.metrics["imageloom_workers", ""] >= 1
    items = [span for span in collector.spans if span.name == "item"]
    assert len(items) == 5
    failed = [
        {a.key: a.value.string_value for a in span.attributes} for span in items if span.status.code == 2
    ]
    assert [(span["imageloom.item"], span["error.type"]) for span in failed] == [("cut.jpg", "CorruptImage")]
    stages = {span.name for span in collector.spans if span.parent_span_id}
    assert stages >= {"read", "decode", "filter", "encode", "write"}
    inside = {span.span_id: span for span in items}
    for span in (span for span in collector.spans if span.parent_span_id):
        item = inside[span.parent_span_id]
        assert item.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= item.end_time_unix_nano


def test_a_collector_that_is_not_there_costs_one_line(photos: Path, tmp_path: Path) -> None:
    ran = imageloom("run", "invert", photos, tmp_path / "out", "--otlp", f"http://127.0.0.1:{free_port()}")
    assert ran.returncode == 1
    assert ran.stderr.count("telemetry: 127.0.0.1") == 1
    assert "Traceback" not in ran.stderr
    assert len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.parametrize(
    "address", ["collector:4318", "ftp://collector", "http://", "http://me:secret@collector"]
)
def test_an_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError) as refused:
        Telemetry(address, 0.1, tuple, lambda text: None)
    assert "secret" not in str(refused.value)


def test_a_parquet_file_has_what_the_ledger_has(photos: Path, tmp_path: Path) -> None:
    imageloom("run", "invert", photos, tmp_path / "out")
    table = tmp_path / "items.parquet"
    ran = imageloom("jobs", "show", "last", "--parquet", table)
    assert ran.returncode == 0, ran.stderr
    with Ledger() as ledger:
        items = list(ledger.items(1))
    rows = pyarrow.parquet.read_table(table).to_pylist()
    assert [row["key"] for row in rows] == [item.key for item in items]
    assert [row["kind"] for row in rows] == [item.failure and item.failure.kind for item in items]
    assert [row["decode"] for row in rows] == [item.times.decode for item in items]
    assert all(
        abs(row["started"].timestamp() - item.started) < 1e-5 for row, item in zip(rows, items, strict=True)
    )
    imageloom("jobs", "show", "last", "--failed", "--parquet", table)
    assert [row["key"] for row in pyarrow.parquet.read_table(table).to_pylist()] == ["cut.jpg"]
    assert not list(tmp_path.glob(".items*"))
    ran = imageloom("jobs", "show", "last", "--parquet", tmp_path / "nowhere" / "items.parquet")
    assert ran.returncode == 4


def test_rows_are_written_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not more than one group is in memory; names that are not Unicode are escaped."""
    monkeypatch.setattr(parquet, "ROWS", 100)
    failure = Failure("CorruptImage", "bad \udcff", trace="")
    record = ItemRecord("a\udcff.jpg", "failed", 1, failure, "w", 1.5, 7, Times(), ("EXIF",), ("cut",))
    assert parquet.write(tmp_path / "many.parquet", repeat(record, 1000)) == 1000
    file = pyarrow.parquet.ParquetFile(tmp_path / "many.parquet")
    assert file.num_row_groups == 10
    first = file.read_row_group(0).to_pylist()[0]
    assert (first["key"], first["message"], first["dropped"]) == ("a\\udcff.jpg", "bad \\udcff", ["EXIF"])
