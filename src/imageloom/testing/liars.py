"""Clients that connect like workers and nodes, and send false messages: see `lies`.

Each is a thread in the test's process. It accepts tasks like a real worker, and answers each with its next lie.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import msgspec

from imageloom.model import Result, Task, Times, Written
from imageloom.testing.lies import lies_about


def answer(task: Task, place: int) -> Result:
    """The result of a real worker, except that no bytes were staged."""
    work = task.work[place]
    written = tuple(
        Written(name, f"{task.job}-{work.number}-{work.attempt}-0123456789ab-{n}", 1000)
        for n, name in enumerate(work.names)
    )
    return Result(work.item.key, written, None, Times(0.1), time.time(), 100)


class Liar:
    """A thread that sends lies until it is closed, and counts them."""

    def __init__(self) -> None:
        self.told = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        raise NotImplementedError


class ZeromqLiar(Liar):
    """A worker of the engine zeromq.

    Args:
        address: address of the driver.
        secure: called with a socket, to set its keys.
    """

    def __init__(self, address: str, secure: Callable[[Any], None]) -> None:
        super().__init__()
        self._address, self._secure = address, secure
        self._lies = itertools.cycle(list(self._frames()))
        self._old: list[bytes] = []

    def _frames(self) -> Iterator[list[bytes]]:
        """Messages, each as kind and body; an empty kind means a result."""
        from imageloom.engines.zeromq.wire import Beat, Delivery, Hello

        hello = Hello("afar", os.getpid(), 1)
        for kind, honest in ((b"hello", hello), (b"beat", Beat((1, 2))), (b"over", Delivery(1))):
            for _, body in lies_about(honest):
                yield [kind, body]
        for kind in (b"leave", b"task", b"welcome", b"\xff\xfe", b"x" * 100_000, b""):
            yield [kind, b"\xc1" * 100]

    def _run(self) -> None:
        import zmq

        context = zmq.Context()
        while not self._over.is_set():
            peer = context.socket(zmq.DEALER)
            peer.linger, peer.rcvtimeo = 0, 200
            self._secure(peer)
            peer.connect(self._address)
            with contextlib.suppress(zmq.Again):
                self._be_a_worker(peer)
            peer.close()
        context.destroy(0)

    def _be_a_worker(self, peer: Any) -> None:
        from imageloom.engines.zeromq.wire import HEADER, Hello

        for kind, body in itertools.islice(self._lies, 25):
            peer.send_multipart([HEADER, kind, body])
            self.told += 1
        peer.send_multipart([b"imageloom/9", b"hello"])
        peer.send_multipart([HEADER, b"hello", msgspec.msgpack.encode(Hello("afar", os.getpid(), 2))])
        while not self._over.is_set():
            frames = peer.recv_multipart()
            if frames[1] == b"unknown":
                return
            if frames[1] == b"task":
                for body in self._results(msgspec.msgpack.decode(frames[2], type=Task)):
                    peer.send_multipart([HEADER, b"result", body])

    def _results(self, task: Task) -> list[bytes]:
        """One lie about a task's first item, and what was said before once more."""
        from imageloom.worker.message import Message

        message = Message(task.id, 0, "afar:1/thread_0", answer(task, 0))
        lies = [body for _, body in (*lies_about(message), *self._about_result(message))]
        self.told += 1
        said = lies[37 * self.told % len(lies)]
        self._old = [*self._old[-3:], said]
        return self._old

    def _about_result(self, message: Any) -> Iterator[tuple[str, bytes]]:
        for name, body in lies_about(message.result):
            yield name, msgspec.msgpack.encode({**_plain(message), "result": msgspec.Raw(body)})


class RedisLiar(Liar):
    """A client that may write to the Redis server, and accepts deliveries like a worker."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._old: list[bytes] = []

    def _run(self) -> None:
        from redis import Redis
        from redis.exceptions import RedisError

        client: Any = Redis.from_url(self._url, protocol=2)
        turn = itertools.count()
        while not self._over.is_set():
            try:
                self._be_a_worker(client, next(turn))
            except RedisError:  # the driver has not created its streams yet, or has ended
                self._over.wait(0.02)
        client.close()

    def _be_a_worker(self, client: Any, turn: int) -> None:
        import socket

        from imageloom.engines.redis.wire import FIELD, GROUP, STREAMS, Delivery, results_key

        names = (f"{socket.gethostname()}/", f"{socket.gethostname()}/x/0", "\xff", "", "/" * 5000, "a\0b\n")
        name = names[turn % len(names)] or "liar"
        for stream in STREAMS.values() if turn % 20 == 0 else ():
            client.xadd(stream, {FIELD: b"\x91" * 5000})
            client.xadd(stream, {b"\xff": b"\xff"})
        found = client.xreadgroup(GROUP, name, {STREAMS["worker"]: ">"}, count=1, block=50)
        for stream, entries in found or ():
            for entry, fields in entries:
                try:
                    delivery = msgspec.msgpack.decode(fields[FIELD.encode()], type=Delivery)
                except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    client.xack(stream, GROUP, entry)
                    client.xdel(stream, entry)
                    continue
                for body in self._results(delivery.task, names):
                    client.xadd(results_key(delivery.run), {FIELD: body})
                client.xadd(results_key(delivery.run), {b"other": b"\xff"})
                client.xack(stream, GROUP, entry)
                client.xdel(stream, entry)

    def _results(self, task: Task, names: tuple[str, ...]) -> list[bytes]:
        from imageloom.worker.message import Message

        message = Message(task.id, 0, names[self.told % len(names)], answer(task, 0))
        lies = [body for _, body in lies_about(message)]
        lies += [
            msgspec.msgpack.encode({**_plain(message), "result": msgspec.Raw(body)})
            for _, body in lies_about(message.result)
        ]
        self.told += 1
        self._old = [*self._old[-3:], lies[37 * self.told % len(lies)]]
        return self._old


class NodeLiar(Liar):
    """A node that answers with lies. The driver finds it by its address."""

    def __init__(self) -> None:
        import grpc

        super().__init__()
        self._pool = ThreadPoolExecutor(16)
        self._server = grpc.server(self._pool)
        raw = dict.fromkeys(("request_deserializer", "response_serializer"), bytes)
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "imageloom.nodes.ImageProcessingNode",
                    {
                        "Describe": grpc.unary_unary_rpc_method_handler(self._describe, **raw),
                        "Perform": grpc.unary_stream_rpc_method_handler(self._perform, **raw),
                    },
                )
            ]
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._asked = 0

    def _run(self) -> None:
        self._server.start()
        self._over.wait()
        self._server.stop(0).wait()
        self._pool.shutdown()

    def _describe(self, request: bytes, context: Any) -> bytes:
        from imageloom.engines.nodes import imageloom_pb2 as pb

        self._asked += 1
        loads = (0.0, float("nan"), float("inf"), -1.0)
        status = pb.NodeStatus(limit=(1, 0, 2**32 - 1)[self._asked % 3], load=loads[self._asked % 4])
        packed: bytes = status.SerializeToString()
        return packed if self._asked % 7 else packed + b"\x2a\x02\xff\xfe"  # acceptance is no UTF-8

    def _perform(self, request: bytes, context: Any) -> Iterator[bytes]:
        import grpc

        from imageloom.engines.nodes import imageloom_pb2 as pb

        task = msgspec.msgpack.decode(pb.TaskRequest.FromString(request).task, type=Task)
        results = [body for _, body in lies_about(answer(task, 0))]
        good = msgspec.msgpack.encode(answer(task, 0))
        self.told += 1
        begun, one = pb.TaskReceipt(), self.told % (len(results) + 12)
        if one >= 12:
            yield begun.SerializeToString()
            yield pb.TaskReceipt(results=[results[one - 12]]).SerializeToString()
            yield pb.TaskReceipt(status=pb.TASK_SUCCESS).SerializeToString()
        elif one < 4:
            codes = ("CANCELLED", "INTERNAL", "UNAVAILABLE", "UNKNOWN")
            context.abort(getattr(grpc.StatusCode, codes[one]), "\x1b]0;owned\x07")
        else:
            said: list[list[bytes]] = [
                [b"\xff" * 100],
                [b"\x12\x02\xff\xfe"],  # a message that is no UTF-8
                [pb.TaskReceipt(status=pb.TASK_REJECTED, load=float("nan")).SerializeToString()],
                [b"\x08\x63"],  # a status of 99
                [pb.TaskReceipt(results=[good] * 1000).SerializeToString()],
                [pb.TaskReceipt(results=[b"", b"\xc1", b"\x91" * 5000]).SerializeToString()],
                [begun.SerializeToString()] * 1000,
                [],
            ]
            yield from said[one - 4]


def _plain(data: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(data))
    return found
