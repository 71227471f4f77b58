"""The client: submits a job to a server and follows it. It tolerates that the server is unavailable for a
while."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import grpc

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes import rpc
from imageloom.engines.nodes.config import Credentials, check_address
from imageloom.engines.nodes.security import read_token, token_metadata
from imageloom.errors import StorageError, UsageError
from imageloom.model import Job
from imageloom.records.events import Began, Listener
from imageloom.service.messages import to_event, to_request

ANSWER = 10.0
"""Time-out in seconds for a call that is answered at once."""
PAUSE = 0.5
"""Seconds between two attempts to reach a server that is unavailable or full."""
FULL = "Socket closed"
"""The error text of gRPC if a server has reached its maximum number of connections."""
FIRST_PATIENCE = 10.0
"""Time in seconds for which a server may be full."""


class Client:
    """A connection to a server.

    Args:
        address: HOST:PORT.
        patience: time in seconds for which the server may be unavailable during a job.

    Raises:
        UsageError: the address is invalid, or needs TLS.
    """

    def __init__(self, address: str, credentials: Credentials, patience: float = 60.0) -> None:
        check_address(address)
        self._address, self._patience = address, patience
        self._metadata = token_metadata(read_token(credentials.token))
        self._channel = rpc.open_channel(address, credentials)
        self._stub = rpc.stubs.ImageProcessingServerStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def submit(
        self,
        job: Job,
        listeners: Iterable[Listener] = (),
        detached: bool = False,
        id: str = "",
        accepted: Callable[[str], None] = lambda id: None,
    ) -> pb.JobReceipt:
        """Submit a job and follow it to its end. A detached job is followed only until it is accepted.

        Args:
            id: id of the job. If it is sent again with the same id, it is the same job. Empty for a new id.
            accepted: called with the id as soon as the server has the job.

        Raises:
            UsageError: the server has refused the job as invalid.
            StorageError: the server cannot be reached, or cannot run the job.
        """
        request = to_request(job, id or secrets.token_hex(8), detached)

        def begin() -> Any:
            return self._stub.Submit(request, metadata=self._metadata)

        return self._follow(begin, listeners, detached, accepted)

    def follow(self, id: str, listeners: Iterable[Listener] = ()) -> pb.JobReceipt:
        """Follow a job to its end.

        Raises:
            UsageError: the server knows no such job.
            StorageError: the server cannot be reached.
        """
        query = pb.JobQuery(id=id)
        return self._follow(lambda: self._stub.Follow(query, metadata=self._metadata), listeners)

    def cancel(self, id: str) -> pb.JobReceipt:
        """Cancel a job. Its items in progress are finished.

        Raises:
            UsageError: the server knows no such job.
            StorageError: the server cannot be reached.
        """
        try:
            receipt: pb.JobReceipt = self._stub.Cancel(
                pb.JobQuery(id=id), timeout=ANSWER, metadata=self._metadata
            )
        except grpc.RpcError as error:
            self._refuse(error)
        return receipt

    def jobs(self) -> list[pb.JobEntry]:
        """The server's jobs: those that run, those that wait, and the latest that have ended.

        Raises:
            UsageError: the server is older, and has no list.
            StorageError: the server cannot be reached.
        """
        try:
            found: pb.JobList = self._stub.List(pb.ListQuery(), timeout=ANSWER, metadata=self._metadata)
        except grpc.RpcError as error:
            self._refuse(error)
        return list(found.jobs)

    def _follow(
        self,
        begin: Callable[[], Any],
        listeners: Iterable[Listener],
        detached: bool = False,
        accepted: Callable[[str], None] = lambda id: None,
    ) -> pb.JobReceipt:
        heard, began = 0.0, time.monotonic()
        told = has_begun = False
        while True:
            try:
                for receipt in begin():
                    heard = time.monotonic()
                    if not told:
                        told = True
                        accepted(receipt.id)
                    if receipt.job and not has_begun:  # it may have waited for other jobs
                        has_begun = True
                        for listener in listeners:
                            listener(Began(receipt.job))
                    for item in receipt.items:
                        event = to_event(item)
                        for listener in listeners:
                            listener(event)
                    if detached or receipt.status != pb.JOB_RUNNING:
                        return self._last(receipt)
            except grpc.RpcError as error:
                is_full = FULL in str(error.details()) and time.monotonic() - began < FIRST_PATIENCE
                is_away = error.code() in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                )
                if not is_full and not (is_away and heard and time.monotonic() - heard < self._patience):
                    self._refuse(error)
            time.sleep(PAUSE)

    def _last(self, receipt: pb.JobReceipt) -> pb.JobReceipt:
        """Return the last receipt, or raise its error if the job could not run at all."""
        if receipt.status == pb.JOB_FAILURE and receipt.exit_code != 1:
            raise (UsageError if receipt.exit_code == 2 else StorageError)(receipt.message)
        return receipt

    def _refuse(self, error: Any) -> NoReturn:
        """Raise the exception for the status of a call."""
        code, details = error.code(), " ".join(str(error.details()).split())
        if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED):
            raise UsageError(details) from None
        if code == grpc.StatusCode.UNAVAILABLE:
            reason = details.rpartition(": ")[2] if details.startswith("failed to connect") else details
            raise StorageError(
                f"cannot reach the server {self._address}: {reason} (is `imageloom server` running there?)"
            ) from None
        raise StorageError(f"the server {self._address} answered {code.name}: {details}") from None
