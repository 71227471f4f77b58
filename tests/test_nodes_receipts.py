"""What a node answers: item by item to those who know nothing else, together to those who ask for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes.config import Credentials, NodeConfig
from imageloom.engines.nodes.local import ProgressFile, completed_items
from imageloom.engines.nodes.node import Ended, Node
from imageloom.engines.nodes.rpc import NODE, Service, open_channel, pack, stubs, unpack
from imageloom.model import Failure, Item, Limits, Recipe, Result, Task, Work

TASK = Task(
    *(7, "1", "memory://in", "memory://out", Recipe(()), Limits()),
    tuple(Work(Item(f"{n}.jpg"), (), n) for n in range(3)),
)


def run(task: Task, ended: Ended) -> Iterator[Result]:
    """All but the second item are done."""
    for work in task.work:
        failure = Failure("CorruptImage", "it is cut") if work.number == 1 else None
        yield Result(work.item.key, failure=failure)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a node."""
    service = Service(Node(run, NodeConfig(limit=1)), NODE, f"unix:{tmp_path}/node", Credentials(), 16)
    yield service.address
    service.close(5)


def receipts(address: str, together: bool) -> list[pb.TaskReceipt]:
    with open_channel(address, Credentials()) as channel:
        request = pb.TaskRequest(task=pack(TASK), together=together)
        return list(stubs.ImageProcessingNodeStub(channel).Perform(request, timeout=10))


def test_each_result_has_its_receipt_for_who_does_not_ask_for_more(address: str) -> None:
    """So it is for a peer of an older version, which reads one."""
    made = receipts(address, together=False)
    assert [len(one.results) for one in made] == [0, 1, 1, 1, 0]
    assert [one.status for one in made] == [pb.TASK_RUNNING] * 4 + [pb.TASK_FAILURE]


def test_results_come_together_in_their_order_for_who_asks_for_it(address: str) -> None:
    made = receipts(address, together=True)
    found = [unpack(result, Result) for one in made for result in one.results]
    assert [one.key for one in found] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [bool(one.failure) for one in found] == [False, True, False]
    assert not made[0].results, "the first one says that the task has begun"
    assert made[-1].status == pb.TASK_FAILURE
    assert len(made) < 5


def test_a_node_notes_what_it_has_in_hand(tmp_path: Path) -> None:
    folder, pid = str(tmp_path), os.getpid()
    progress = ProgressFile(folder)
    assert completed_items(folder, pid, 7) is None, "it has begun nothing"
    running = progress.run(TASK, lambda _: True)
    for done in (1, 2, 3):
        next(running)
        assert (completed_items(folder, pid, 7) or 0) >= done, "the thread that works may be ahead"
    assert completed_items(folder, pid, 8) is None, "that is another task"
