"""Ceph's RADOS Gateway on loopback and in a temporary folder: the object store whose conditional puts are atomic.

    with Ceph(folder) as ceph:
        ceph.make_bucket("photos")
        os.environ |= ceph.environment

One monitor, one OSD that keeps objects in memory, and the gateway, of Debian's packages radosgw, ceph-mon and
ceph-osd, as the current user and without the system's own folders. There is no manager: it would only count.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import shutil
import subprocess
import time
import uuid
from urllib.parse import quote, urlencode

from testservers.servers import PATIENCE, ObjectServer, free_ports

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
MEMORY = 2 << 30
"""Bytes that its objects may take together."""
_CONFIGURATION = """
[global]
fsid = {id}
mon host = [v2:127.0.0.1:{port}/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {folder}/keyring
run dir = {folder}
crash dir = {folder}
admin socket =
pid file =
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
osd objectstore = memstore
memstore device bytes = {memory}
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
paxos propose interval = 0.05
"""


def is_installed() -> bool:
    """Whether all programs are there."""
    return all(map(shutil.which, PROGRAMS))


class Ceph(ObjectServer):
    """A running gateway with its cluster; its processes end with the block."""

    user, secret, account = "loom", "weaving", "/swift/v1"

    def start(self) -> None:
        port, self.port = free_ports(2)
        for name in ("mon", "osd", "rgw"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._cluster = str(uuid.uuid4())
        (self.folder / "ceph.conf").write_text(
            _CONFIGURATION.format(id=self._cluster, port=port, folder=self.folder, memory=MEMORY)
        )
        self._start_monitor(port)
        self._start_disk()
        self._start_gateway()
        self._make_user()

    def _start_monitor(self, port: int) -> None:
        keyring, map_ = f"{self.folder}/keyring", f"{self.folder}/monmap"
        for name in ("mon.", "client.admin", "osd.0"):
            rights = [word for kind in ("mon", "osd", "mgr") for word in ("--cap", kind, "allow *")]
            make = () if name != "mon." else ("--create-keyring",)
            self._do("ceph-authtool", keyring, *make, "--gen-key", "-n", name, *rights)
        at = f"[v2:127.0.0.1:{port}]"
        self._do("monmaptool", "--create", "--fsid", self._cluster, "--addv", "a", at, map_)
        self._do("ceph-mon", "--mkfs", "-i", "a", "--monmap", map_, "--keyring", keyring)
        self._run("ceph-mon", "-f", "-i", "a")

    def _start_disk(self) -> None:
        disk = str(uuid.uuid4())
        self._do("ceph", "osd", "new", disk, "0")
        self._do("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", disk)
        self._run("ceph-osd", "-f", "-i", "0")

    def _start_gateway(self) -> None:
        where = f"beast endpoint=127.0.0.1:{self.port}"
        self._run("radosgw", "-f", "-n", "client.admin", "--rgw-frontends", where)
        self._wait(self.port)

    def _make_user(self) -> None:
        keys = ("--access-key", self.user, "--secret-key", self.secret)
        self._do("radosgw-admin", "user", "create", "--uid", self.user, "--display-name", self.user, *keys)
        sub = ("--subuser", f"{self.user}:swift", "--key-type", "swift", "--secret", self.secret)
        self._do("radosgw-admin", "subuser", "create", "--uid", self.user, "--access", "full", *sub)
        self._authenticate(f"{self.user}:swift", self.secret)

    def notify(self, bucket: str, url: str) -> None:
        """Have it post a notification to an address for each object that is created in a bucket."""
        topic = {"Action": "CreateTopic", "Name": f"{bucket}-created", "Attributes.entry.1.key": "push-endpoint",
                 "Attributes.entry.1.value": url, "Attributes.entry.2.key": "verify-ssl",
                 "Attributes.entry.2.value": "false"}  # fmt: skip
        answer = self._signed("POST", "/", "", urlencode(topic, quote_via=quote).encode(), "sns")
        (arn,) = re.findall("<TopicArn>(.*?)</TopicArn>", answer)
        rule = (
            "<NotificationConfiguration><TopicConfiguration><Id>created</Id>"
            f"<Topic>{arn}</Topic><Event>s3:ObjectCreated:*</Event>"
            "</TopicConfiguration></NotificationConfiguration>"
        )
        self._signed("PUT", f"/{bucket}", "notification=", rule.encode(), "s3")

    def _signed(self, method: str, path: str, query: str, body: bytes, service: str) -> str:
        """Send a request that Swift's interface does not have, signed as S3's clients do."""
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        digest = hashlib.sha256(body).hexdigest()
        headers = {"host": f"127.0.0.1:{self.port}", "x-amz-content-sha256": digest, "x-amz-date": moment}
        names = ";".join(headers)
        asked = "\n".join(
            (method, path, query, *(f"{name}:{value}" for name, value in headers.items()), "", names, digest)
        )
        scope = f"{moment[:8]}/us-east-1/{service}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
        key = f"AWS4{self.secret}".encode()
        for part in (*scope.split("/"), text):
            key = hmac.digest(key, part.encode(), "sha256")
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.user}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
        )
        if service == "sns":
            headers["content-type"] = "application/x-www-form-urlencoded"
        return self._ask(method, f"{path}?{query}" if query else path, headers, body)[0].decode()

    def _run(self, program: str, *arguments: str) -> None:
        self._start(f"{program}.out", program, *self._settings(program), *arguments)

    def _do(self, program: str, *arguments: str) -> None:
        """Run a program to its end.

        Raises:
            RuntimeError: it fails, with what it says.
        """
        command = (program, *self._settings(program), *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")

    def _settings(self, program: str) -> tuple[str, ...]:
        return () if program in ("ceph-authtool", "monmaptool") else ("-c", f"{self.folder}/ceph.conf")
