"""Starts a relay: its certificate, its token, its server."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from msgspec.structs import replace

from imageloom.engines import Engine, Settings
from imageloom.errors import MissingExtra, UsageError
from imageloom.model import Job, Relay
from imageloom.stores import is_remote, local_path

try:
    import uvicorn
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID
    from starlette.types import ASGIApp

    from imageloom.service.relay.app import Relayed
    from imageloom.service.web.server import configured
except ModuleNotFoundError:
    raise MissingExtra("--relay", "relay") from None

from imageloom.service.relay.connections import Listener, listen
from imageloom.service.relay.engine import RelayEngine
from imageloom.service.relay.uploads import Uploads
from imageloom.stores.local import LocalStore
from imageloom.stores.relay import SCHEME

LIFE = timedelta(days=3650)
"""How long a certificate is valid: longer than any run."""
LEAVING = 100
"""Maximum number of looks whether all connections have ended, a hundredth of a second apart."""
SKEW = timedelta(days=1)
"""By how much the clock of a worker's machine may be slow."""


class Place(NamedTuple):
    """Where a relay listens, and how workers reach it."""

    listen: str
    """The host to listen on."""
    host: str
    """The host in the relay's address."""
    port: int

    @property
    def address(self) -> str:
        return f"{SCHEME}://{self.host}:{self.port}"


def place_of(address: str) -> Place:
    """Read the argument of --relay: HOST:PORT.

    Raises:
        UsageError: it is not valid.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(
            f"--relay {address}: give HOST:PORT, by which the workers reach this machine, such as 10.0.0.5:7443"
        )
    return Place(host, f"[{host}]" if ":" in host else host, int(port))


def prepared(job: Job, settings: Settings, address: str) -> tuple[Job, Settings]:
    """The job and the settings of its engine, for `relayed`: large images are not cut into tiles, because their
    parts are exchanged in local files.

    Raises:
        UsageError: the source or the sink is not a local folder, an output is a folder, the address is not valid,
            or --tile is given.
    """
    place = place_of(address)
    for what, address in (("source", job.source), ("sink", job.sink)):
        if is_remote(address):
            raise UsageError(f"--relay: workers reach the {what} {address} by themselves: remove --relay")
    if job.in_place:
        raise UsageError("--relay excludes --in-place")
    if any(output.format == "zarr" for output in job.recipe.outputs):
        raise UsageError("--relay excludes --format zarr: an output is a folder, which workers do not send")
    if job.tile == "always":
        raise UsageError(
            "--relay excludes --tile always: the parts of a tiled image are exchanged in local files"
        )
    guard = replace(settings.guard, roots=(*settings.guard.roots, place.address))
    return replace(job, tile="never"), replace(settings, guard=guard)


@contextmanager
def relayed(job: Job, engine: Engine, address: str) -> Iterator[RelayEngine]:
    """Serve the source and the sink of a job until the block ends.

    Args:
        engine: the engine; the caller closes it.
        address: HOST:PORT, see `place_of`.

    Yields:
        The engine for the job's driver.

    Raises:
        UsageError: the address is not valid.
        StorageError: it cannot listen there.
    """
    place = place_of(address)
    source = os.path.abspath(local_path(job.source))
    if os.path.isfile(source):
        source = os.path.dirname(source)
    uploads = Uploads(os.path.abspath(local_path(job.sink)))
    token = secrets.token_urlsafe(32)
    certificate, key = _new_certificate()
    listener = listen(place.listen, place.port)
    app = Relayed(LocalStore(source, job.links), uploads).application(token, listener.know)
    with _served(app, listener, certificate, key):
        relay = Relay(token, certificate)
        yield RelayEngine(engine, place.address, relay, uploads)


@contextmanager
def _served(app: ASGIApp, listener: Listener, certificate: str, key: str) -> Iterator[None]:
    """Serve an application over TLS in a thread of its own until the block ends."""
    config = configured(app, date_header=False)
    with tempfile.TemporaryDirectory() as folder:
        paths = os.path.join(folder, "certificate"), os.path.join(folder, "key")
        for path, text in zip(paths, (certificate, key), strict=True):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
        config.ssl_certfile, config.ssl_keyfile = paths
        config.load()  # reads them
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(_serve(server, listener)), name="relay", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True  # no worker needs anything any more
        thread.join()
        listener.close()


async def _serve(server: uvicorn.Server, listener: Listener) -> None:
    await server.serve([listener])
    listener.cut_all()
    for _ in range(LEAVING):
        if not listener.count:
            return
        await asyncio.sleep(0.01)


def _new_certificate() -> tuple[str, str]:
    """A certificate that signs itself, and its key, both in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "imageloom relay")])
    now = datetime.now(UTC)
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), secret.decode()
