"""Notifications of stores: what names an object, who may send it, and how soon its output is there."""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_plus

import httpx
import pytest
import yaml
from testservers.swift import Swift

from imageloom.errors import UsageError, WrongState
from imageloom.model import Item, Job, Recipe
from imageloom.service import steering
from imageloom.service.flows import Flow, Options
from imageloom.service.notifications import created
from imageloom.service.steering import SteeredWatch
from imageloom.service.web import access
from places import Bucket, Memory, reach
from program import draw, wait_until
from serving import Hosted, hosted_in

SOURCE = "s3://photos/in here"
_numbers = itertools.count()


def minio(*keys: str, bucket: str = "photos", name: str = "s3:ObjectCreated:Put") -> bytes:
    """What MinIO posts."""
    records = [
        {
            "eventVersion": "2.0",
            "eventSource": "minio:s3",
            "awsRegion": "",
            "eventTime": "2026-11-29T10:00:00.000Z",
            "eventName": name,
            "userIdentity": {"principalId": "loom"},
            "requestParameters": {"sourceIPAddress": "192.0.2.7"},
            "responseElements": {"x-minio-origin-endpoint": "http://192.0.2.8:9000"},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "Config",
                "bucket": {"name": bucket, "ownerIdentity": {}, "arn": f"arn:aws:s3:::{bucket}"},
                "object": {"key": quote_plus(key), "size": 3, "eTag": "x", "sequencer": "1"},
            },
            "source": {"host": "192.0.2.9", "port": "", "userAgent": "mc"},
        }
        for key in keys
    ]
    first = f"{bucket}/{keys[0]}" if keys else ""
    return json.dumps({"EventName": name, "Key": first, "Records": records}).encode()


def ceph(key: str, bucket: str = "photos", name: str = "ObjectCreated:Put") -> bytes:
    """What Ceph's gateway posts: the key as it is, and fields of its own."""
    record = {
        "eventVersion": "2.2",
        "eventSource": "ceph:s3",
        "awsRegion": "default",
        "eventTime": "2026-11-29T10:00:00.000000Z",
        "eventName": name,
        "userIdentity": {"principalId": "loom"},
        "requestParameters": {"sourceIPAddress": ""},
        "responseElements": {"x-amz-request-id": "a", "x-amz-id-2": "b"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "n",
            "bucket": {"name": bucket, "ownerIdentity": {"principalId": "loom"}, "arn": "", "id": "c"},
            "object": {"key": key, "size": 3, "etag": "x", "versionId": "", "sequencer": "1",
                       "metadata": [], "tags": []},
        },
        "eventId": "d",
        "opaqueData": "",
    }  # fmt: skip
    return json.dumps({"Records": [record]}).encode()


@pytest.mark.parametrize(
    ("body", "keys", "ignored"),
    [
        (minio("in here/a.jpg", "in here/sub/ü b.png"), ["a.jpg", "sub/ü b.png"], 0),
        (ceph("in here/a.jpg"), ["a.jpg"], 0),
        (ceph("in here/a+b%20c.jpg"), ["a b c.jpg", "a+b%20c.jpg"], 0),
        (ceph("in here/a.jpg", name="s3:ObjectCreated:CompleteMultipartUpload"), ["a.jpg"], 0),
        (ceph("in here/a.jpg", name="ObjectRemoved:Delete"), [], 1),
        (ceph("in here/a.jpg", bucket="others"), [], 1),
        (minio("elsewhere/a.jpg", "in here/../b.jpg", "in herebeside/c.jpg", "in here/"), [], 4),
        (b'{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"photos"}', [], 0),
        (b'{"Records":[]}', [], 0),
        (b'{"Records":[{}, {"s3": {"object": {"key": "in here/a.jpg"}}}]}', [], 2),
    ],
)
def test_records_name_objects_below_the_source(body: bytes, keys: list[str], ignored: int) -> None:
    found = created(body, SOURCE)
    assert (list(found.keys), found.ignored) == (keys, ignored)


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"[]", b'{"Records": {}}', b"\xff", b"[" * 100_000, b'{"Records":[{"s3":{"object":{"key":1}}}]}',
     json.dumps({"Records": [{}] * 2001}).encode()],
)  # fmt: skip
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(UsageError):
        created(body, SOURCE)


def test_a_folder_has_no_notifications(tmp_path: Path) -> None:
    with pytest.raises(WrongState):
        created(minio("a.jpg"), str(tmp_path))


class Notified(NamedTuple):
    """A service with a watched flow over a bucket, which lists it once an hour."""

    site: Hosted
    place: Bucket
    operator: httpx.Client
    path: str
    secret: str

    def post(self, body: bytes, secret: str = "", **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {secret or self.secret}"}
        with httpx.Client(base_url=self.site.url, timeout=30.0) as client:
            return client.post(self.path, content=body, **{"headers": headers, **more})


@pytest.fixture(scope="module")
def notified(swift: Swift, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notified]:
    with pytest.MonkeyPatch.context() as patch:
        reach(swift, patch)
        patch.setattr(access, "FIRST_PAUSE", 0.0)
        place = Bucket(swift, "notified")
        with hosted_in(tmp_path_factory.mktemp("notify"), more=("s3://notified",)) as site:
            flow = {"source": place.address, "sink": str(site.root / "out"), "recipe": "invert"}
            text = yaml.safe_dump({**flow, "when": "watched", "options": {"poll": 3600}})
            with site.client("operator") as client:
                assert client.put("api/v1/flows/web", json={"text": text}).status_code == 200
                wait_until(lambda: client.get("api/v1/jobs").json()["jobs"][0]["state"] == "running")
                made = client.post("api/v1/flows/web/events/secret").json()
                yield Notified(site, place, client, made["path"], made["secret"])


def put(notified: Notified, tmp_path: Path, key: str) -> Path:
    """Put a photo into the bucket. Returns the path of its output."""
    notified.place.put(key, draw(tmp_path / "photo.jpg", next(_numbers)).read_bytes())
    return notified.site.root / "out" / key


def test_an_object_is_done_without_waiting_for_a_listing(notified: Notified, tmp_path: Path) -> None:
    times = []
    shapes: list[Callable[..., bytes]] = [minio, ceph, minio, ceph]
    for number, shape in enumerate(shapes):
        key = f"sub {number}/a+ü.jpg"
        output = put(notified, tmp_path, key)
        began = time.monotonic()
        answer = notified.post(shape(f"in here/{key}", bucket="notified"))
        assert answer.status_code == 200, answer.text
        assert answer.json()["is_running"]
        wait_until(output.exists)
        times.append(time.monotonic() - began)
    assert max(times) < 10.0


def test_objects_that_are_not_there_or_not_wanted_do_nothing(notified: Notified, tmp_path: Path) -> None:
    put(notified, tmp_path, "not an image.txt")
    put(notified, tmp_path, ".hidden/a.jpg")
    names = ("none.jpg", "not an image.txt", ".hidden/a.jpg", "../x.jpg", "/etc/passwd")
    assert notified.post(minio(*(f"in here/{n}" for n in names), bucket="notified")).status_code == 200
    output = put(notified, tmp_path, "last.jpg")
    assert notified.post(minio("in here/last.jpg", bucket="notified")).status_code == 200
    wait_until(output.exists)
    found = [p.name for p in (notified.site.root / "out").rglob("*") if p.is_file()]
    assert {"none.jpg", "not an image.txt", "x.jpg", "passwd"}.isdisjoint(found)
    assert found.count("a.jpg") == 0


def test_who_may_notify(notified: Notified) -> None:
    """The secret of the flow, in each way that a store can send it; nothing else."""
    n, empty = notified, b'{"Records":[]}'
    basic = base64.b64encode(f"any:{n.secret}".encode()).decode()
    assert n.post(empty).status_code == 200
    assert n.post(empty, headers={"Authorization": f"Basic {basic}"}).status_code == 200
    assert n.post(empty, headers={}, params={"secret": n.secret}).status_code == 200
    assert n.post(empty, n.site.tokens["operator"]).status_code == 200
    wrong: list[dict[str, Any]] = [
        {"headers": {}},
        {"headers": {}, "params": {"secret": "x" * 43}},
        {"headers": {}, "params": {"secret": ""}},
        {"headers": {"Authorization": "Basic !"}},
        {"headers": {"Authorization": f"Bearer {n.site.tokens['reader']}"}},
        {"headers": {"Authorization": "Bearer"}, "params": {"secret": n.secret}},
    ]
    for given in wrong:
        answer = n.post(empty, **given)
        assert answer.status_code == 401, given
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_secret_opens_nothing_else(notified: Notified) -> None:
    n = notified
    headers = {"Authorization": f"Bearer {n.secret}"}
    with httpx.Client(base_url=n.site.url, headers=headers) as client:
        assert client.get("api/v1/flows").status_code == 401
        assert client.get(n.path).status_code == 401
        assert client.post("api/v1/flows/web/start").status_code == 401
        assert client.post("api/v1/flows/other/events", json={}).status_code == 401
        assert client.post("api/v1/flows/web/events/secret").status_code == 401
        assert client.put("api/v1/flows/web", json={"text": ""}).status_code == 401
    with n.site.client("reader") as client:
        assert client.post("api/v1/flows/web/events/secret").status_code == 403


def test_a_new_secret_replaces_the_one_before(notified: Notified) -> None:
    n, empty = notified, b'{"Records":[]}'
    n.operator.put("api/v1/flows/second", json={"text": n.operator.get("api/v1/flows/web").json()["text"]
                   .replace("watched", "once").replace("/out", "/out2")})  # fmt: skip
    first = n.operator.post("api/v1/flows/second/events/secret").json()
    second = n.operator.post("api/v1/flows/second/events/secret").json()
    there = n._replace(path=first["path"])
    assert there.post(empty, first["secret"]).status_code == 401
    assert there.post(empty, second["secret"]).json() == {"named": 0, "ignored": 0, "is_running": False}
    assert there.post(empty, n.secret).status_code == 401
    assert n.operator.post("api/v1/flows/none/events/secret").status_code == 404


def test_wrong_secrets_slow_down_their_sender_and_no_login(
    notified: Notified, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notified.post(b"{}").status_code == 200
    monkeypatch.setattr(access, "FIRST_PAUSE", 60.0)
    assert notified.post(b"{}", "x" * 43).status_code == 401
    answer = notified.post(b"{}")
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 61
    assert notified.operator.get("api/v1/flows").status_code == 200
    monkeypatch.setattr(access, "FIRST_PAUSE", 0.0)
    assert notified.post(b"{}").status_code == 200


def test_a_flood_of_names_becomes_a_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "MOST_HEARD", 3)
    place = Memory("flood-of-names")
    job = Job(place.address, str(tmp_path), Recipe(()))
    flow = Flow("web", "watched", job, Options(poll=3600))
    watch = SteeredWatch(flow, (), lambda key: True, {})
    entries = watch.entries(lambda: None)
    assert next(entries) is None
    place.put("told by nobody.png", draw(tmp_path / "a.png").read_bytes())
    assert next(entries) is None
    watch.hear([f"{number}.png" for number in range(5)])
    assert watch.pause == 0.0
    found = next(entries)
    assert isinstance(found, Item)
    assert found.key == "told by nobody.png"
