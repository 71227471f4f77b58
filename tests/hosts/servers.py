"""Servers of a host, each run as a program on it.

python -m hosts.servers forward 0.0.0.0:6380 127.0.0.1:6379 [CERTIFICATE KEY]
python -m hosts.servers swift FOLDER 0.0.0.0:8080 BUCKET...
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path

from testservers.swift import Swift

CHUNK = 1 << 16


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def forward(listen: str, target: str, certificate: str = "", key: str = "") -> None:
    """Forward connections from one address to another; with a certificate it ends TLS."""
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            host, _, port = target.rpartition(":")
            there = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))

    host, _, port = listen.rpartition(":")
    server = await asyncio.start_server(connect, host, int(port), ssl=context)
    async with server:
        await server.serve_forever()


def main() -> None:
    kind, *arguments = sys.argv[1:]
    if kind == "forward":
        asyncio.run(forward(*arguments))
    elif kind == "swift":
        folder, listen, *buckets = arguments
        with Swift(Path(folder)) as swift:
            for bucket in buckets:
                swift.make_bucket(bucket)
            asyncio.run(forward(listen, f"127.0.0.1:{swift.port}"))


if __name__ == "__main__":
    main()
