"""Fuzz targets: the messages that engines, services and decoding processes receive, and recorded files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from redis.exceptions import RedisError

from imageloom.engines.executor import outcome_of
from imageloom.engines.mpi import wire as mpi
from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes import rpc
from imageloom.engines.nodes.transport import load_of
from imageloom.engines.redis.replies import BoundedParser
from imageloom.engines.redis.wire import Delivery
from imageloom.engines.zeromq import wire as zeromq
from imageloom.errors import ImageloomError
from imageloom.model import (
    UNREADABLE,
    Failure,
    Frame,
    Header,
    Item,
    Job,
    Limits,
    Outcome,
    Output,
    Plain,
    Recipe,
    Result,
    Step,
    Task,
    Work,
    Written,
)
from imageloom.records import timeline
from imageloom.records.events import Done
from imageloom.scheduling.inbox import Inbox, message_of
from imageloom.scheduling.results import checked
from imageloom.service import messages as service
from imageloom.testing.fuzzing.mutations import changed_message
from imageloom.testing.fuzzing.target import MOST_BYTES, Target
from imageloom.worker import sandbox
from imageloom.worker.guard import Guard
from imageloom.worker.items import About
from imageloom.worker.message import Message
from imageloom.worker.shared import COUNT, DESCRIBED, REPLY, START, Description, Encoded, SharedMemory

_RECIPE = Recipe((Output((Step("flip"), Step("resize", {"size": "8x8"})), format="png", quality=90),))
_WORK = Work(Item("a/1.jpg", 100, 5), ("a/1.png",), 1, header=Header("jpeg", Frame(20, 10, 3)))
TASK = Task(7, "1", "/photos", "/out", _RECIPE, Limits(), (_WORK,))
_RESULT = Result(
    "a/1.jpg",
    (Written("a/1.png", "1-1-0-0123456789ab-0", 100),),
    started=1e9,
    pixels=200,
    worker="one",
    dropped=("EXIF",),
    warnings=("it ends early",),
)
_FAILED = Result("a/1.jpg", failure=Failure("CorruptImage", "it is damaged", trace="a\nb"))
_GUARD = Guard(("/photos", "/out"))
_JOB = Job("/photos", "/out", _RECIPE, include=("*.jpg",))
_pack = msgspec.msgpack.encode


def targets() -> Iterator[Target]:
    results = [_pack(Message(7, 0, "one", one)) for one in (_RESULT, _FAILED, None)]
    yield _plain("message", _message, *results)
    yield Target("inbox", _inbox, lambda: [b"".join(len(one).to_bytes(4) + one for one in results)])
    yield _plain("outcome", _outcome, Outcome(7, "one", (_RESULT,)))
    yield _plain("task", partial(_task, Task), TASK)
    yield _plain("redis-delivery", partial(_task, Delivery), Delivery(3, "run", 10.0, 60.0, TASK))
    yield Target(
        "redis-reply",
        _reply,
        lambda: [b"*2\r\n$3\r\nkey\r\n*3\r\n:5\r\n$-1\r\n+OK\r\n", b"-NOAUTH no\r\n", b"*0\r\n"],
        expected=(RedisError,),
        words=(b"*1\r\n", b"$5\r\n", b":", b"\r\n", b"*-1\r\n", b"*200000\r\n", b"$99999999\r\n"),
    )
    for sent in (
        zeromq.Hello("host", 9, 2, b"\0abc", b"token"),
        zeromq.Welcome(5556, 1.0, 5.0),
        zeromq.Beat((1, 2)),
        zeromq.Delivery(3),
    ):
        kind = type(sent)
        yield _plain(f"zeromq-{kind.__name__.lower()}", partial(zeromq.body_of, kind), sent)
    ready = mpi.Ready((mpi.Peer("host", 1), mpi.Peer("host", 2)), ("/dev/shm/mpich",))
    yield Target(
        "mpi",
        _mpi,
        lambda: [mpi.pack(1, mpi.Kind.RESULT, results[0]), mpi.pack(0, mpi.Kind.READY, _pack(ready))],
    )
    for name, read, message in (
        ("node-task", _node_task, pb.TaskRequest(task=rpc.pack(TASK))),
        ("node-receipt", _node_receipt, pb.TaskReceipt(results=[rpc.pack(_RESULT)], load=0.5)),
        ("node-status", _node_status, pb.NodeStatus(limit=2, load=0.5)),
        ("service-request", _service_request, service.to_request(_JOB, "a1", detached=False)),
        ("service-item", _service_item, service.to_item_receipt(Done(_RESULT, 1, "one"))),
        ("service-job", _service_job, pb.JobReceipt(job=1, done=2, dropped={"EXIF": 1})),
    ):
        yield Target(name, read, partial(_serialized, message), expected=(ImageloomError, DecodeError))
    made = Description((Encoded(3), Encoded(files=(("a/b", 2),))), None, _pack(About(("EXIF",), ("early",))))
    yield _plain("sandbox-description", _described, made, Description(failure=_FAILED.failure))
    yield Target("sandbox-reply", _sandbox, lambda: [REPLY.pack(5, START, 0, 10, 0.1, 0.1, 0.1) + b"12345"])
    yield _plain("sandbox-about", sandbox.about, About(("EXIF",), ("early",)))
    yield Target("timeline", _timeline, _timelines)


def _plain(name: str, run: Callable[[bytes], object], *made: Plain | bytes) -> Target:
    """A target of MessagePack."""
    seeds = [one if isinstance(one, bytes) else _pack(one) for one in made]
    return Target(name, run, lambda: seeds, change=changed_message)


def _serialized(message: Any) -> list[bytes]:
    return [message.SerializeToString()]


def _message(data: bytes) -> None:
    found = message_of(data)
    if found.result is not None:
        accepted = checked(TASK, _WORK, found.result, "one")
        assert accepted.key == _WORK.item.key
        assert accepted.failure or accepted.written[0].name == _WORK.names[0]


def _inbox(data: bytes) -> None:
    file = os.memfd_create("fuzzing", os.MFD_CLOEXEC)
    with Connection(file) as pipe:
        os.write(file, data)
        os.lseek(file, 0, os.SEEK_SET)
        inbox = Inbox(pipe)
        for message in inbox.take():
            message_of(message)


def _outcome(data: bytes) -> None:
    found = outcome_of(data, TASK)
    assert len(found.results) == len(TASK.work)
    for result in found.results:
        checked(TASK, _WORK, result, "one")


def _task(kind: type[Task] | type[Delivery], data: bytes) -> None:
    """Decode a task, as a worker elsewhere does."""
    try:
        found = msgspec.msgpack.decode(data, type=kind)
    except UNREADABLE:
        return
    _GUARD.bounded(found if isinstance(found, Task) else found.task)


class _Socket:
    """The receiving side of a connection, which is closed after some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def recv(self, most: int) -> bytes:
        taken, self._data = self._data[:most], self._data[most:]
        return taken

    def recv_into(self, room: memoryview) -> int:
        taken = self.recv(len(room))
        room[: len(taken)] = taken
        return len(taken)


class _Server:
    def __init__(self, data: bytes) -> None:
        self._sock = _Socket(data)


def _reply(data: bytes) -> None:
    parser = BoundedParser(0)
    parser.on_connect(_Server(data))
    while True:  # until the end of the connection
        parser.read_response()


def _mpi(data: bytes) -> None:
    _, kind, body = mpi.unpack(data)
    if kind is mpi.Kind.RESULT:
        message_of(body)


def _node_task(data: bytes) -> None:
    _GUARD.bounded(rpc.unpack(pb.TaskRequest.FromString(data).task, Task))


def _node_receipt(data: bytes) -> None:
    receipt = pb.TaskReceipt.FromString(data)
    load_of(receipt.load)
    for packed in receipt.results:
        checked(TASK, _WORK, rpc.unpack(packed, Result), "one")


def _node_status(data: bytes) -> None:
    assert 0.0 <= load_of(pb.NodeStatus.FromString(data).load) <= 1.0


def _service_request(data: bytes) -> None:
    job = service.to_job(pb.JobRequest.FromString(data))
    service.to_request(job, "a1", detached=True)


def _service_item(data: bytes) -> None:
    service.to_event(pb.ItemReceipt.FromString(data))


def _service_job(data: bytes) -> None:
    service.to_summary(pb.JobReceipt.FromString(data))


class _Child(sandbox.Child):
    """A decoding process that only has memory."""

    def __init__(self, memory: SharedMemory) -> None:
        self.memory = memory


@cache
def _child() -> _Child:
    return _Child(SharedMemory())


def _sandbox(data: bytes) -> None:
    """The first bytes are a reply, and the others what it refers to."""
    child = _child()
    child.memory.write(data[: REPLY.size].ljust(REPLY.size, b"\0"), COUNT.size)
    child.memory.write(data[REPLY.size :].ljust(MOST_BYTES, b"\0"), START)
    child.reply(0)


def _described(data: bytes) -> None:
    child = _child()
    child.memory.write(REPLY.pack(DESCRIBED, START + MOST_BYTES, len(data), 1, 0.0, 0.0, 0.0), COUNT.size)
    child.memory.write(data, START + MOST_BYTES)
    found = child.reply(0)
    if found.about:
        sandbox.about(found.about)


def _timelines() -> list[bytes]:
    opening = timeline.Opening(timeline.VERSION, 1, 2, 1e9, "threads", 2, 2, "Linux", _JOB)
    frames = [_pack([opening]), _pack([timeline.Worker("one")])]
    return [b"".join(len(frame).to_bytes(4) + frame for frame in frames)]


def _timeline(data: bytes) -> None:
    file = os.memfd_create("fuzzing", os.MFD_CLOEXEC)
    try:
        os.write(file, data)
        timeline.read(Path(f"/proc/self/fd/{file}"))
    finally:
        os.close(file)
