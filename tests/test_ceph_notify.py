"""Ceph's own gateway tells the service of new objects: how soon the outputs are there."""

from __future__ import annotations

import logging
import os
import statistics
import time
from pathlib import Path

import pytest
import yaml
from testservers.ceph import Ceph, is_installed

from places import Bucket, reach
from program import draw, wait_until
from serving import hosted_in

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not is_installed(), reason="Debian's radosgw, ceph-mon and ceph-osd are not installed"
    ),
]
log = logging.getLogger(__name__)
OBJECTS = int(os.environ.get("OBJECTS", "100"))


def test_an_object_in_the_gateway_is_done_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = draw(tmp_path / "photo.jpg", 1, 1600, 1200).read_bytes()
    with Ceph(tmp_path / "ceph") as ceph:
        reach(ceph, monkeypatch)
        place, sink = Bucket(ceph, "told"), Bucket(ceph, "made")
        with hosted_in(tmp_path, more=("s3://told", "s3://made")) as site, site.client("operator") as client:
            flow = {
                "source": place.address,
                "sink": sink.address,
                "recipe": "resize 640x640",
                "when": "watched",
            }
            client.put("api/v1/flows/web", json={"text": yaml.safe_dump(flow | {"options": {"poll": 3600}})})
            wait_until(lambda: client.get("api/v1/jobs").json()["jobs"][0]["state"] == "running")
            made = client.post("api/v1/flows/web/events/secret").json()
            ceph.notify("told", f"{site.url}{made['path']}?secret={made['secret']}")
            times = []
            for number in range(OBJECTS):
                key = f"ü {number % 7}/a+b {number}.jpg"
                place.put(key, photo)
                began = time.monotonic()
                wait_until(lambda key=key: key in sink.outputs())  # type: ignore[misc]
                times.append(time.monotonic() - began)
            slow = statistics.quantiles(times, n=20)[-1]
            log.info("median %.3f s, 95th percentile %.3f s", statistics.median(times), slow)
            assert slow < 1.0, sorted(times)[-10:]
