"""The client of `imageloom serve`: flows, jobs and their items, over HTTP."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from imageloom.errors import StorageError
from imageloom.records.history import ItemLine
from imageloom.service.connection import Body, Connection, token_of
from imageloom.service.preview import Preview
from imageloom.service.state import ENDED
from imageloom.service.web import answers as a
from imageloom.service.web.answers import JobAnswer, MessageAnswer
from imageloom.service.web.submitted import OutcomeList

T = TypeVar("T")
SILENCE = 45.0
"""Seconds without a byte after which an event stream counts as broken. The service sends one every 15 s."""
PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two attempts to reach a service, and between two requests without a stream."""
MOST_BROKEN = 3
"""After so many streams without a message, for example if a proxy holds them back, changes are asked for."""


class Client:
    """A connection to `imageloom serve`. It may be used from several threads, and as a context manager.

    Args:
        url: address of the service, such as http://127.0.0.1:8100.
        token: the operator's, or a reader's; without it, that of `token_file`, of the variable IMAGELOOM_TOKEN, or
            of the file that IMAGELOOM_TOKEN_FILE names.
        timeout: seconds without any progress after which a request fails.
        authority: path of a file with the certificates to trust; without it, those of the system.

    Raises:
        UsageError: the address is not valid, would send the token in the clear, or there is no token.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8100",
        token: str | None = None,
        *,
        token_file: str | os.PathLike[str] | None = None,
        timeout: float = 30.0,
        authority: str | os.PathLike[str] | None = None,
    ) -> None:
        self._connection = Connection(
            url, token_of(token, token_file), timeout, os.fspath(authority) if authority else ""
        )
        self.url = self._connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    # Flows

    def flows(self) -> tuple[a.FlowAnswer, ...]:
        """All flows."""
        return self._get("/flows", a.FlowList).flows

    def flow(self, name: str) -> a.FlowAnswer:
        """A flow.

        Raises:
            UnknownName: there is none of this name.
        """
        return self._get(f"/flows/{name}", a.FlowAnswer)

    def write_flow(self, name: str, flow: str | Mapping[str, Any]) -> a.FlowAnswer:
        """Write a flow. A watched one that is new starts by itself.

        Args:
            flow: its YAML text, or its fields: source, sink, recipe, when, options.

        Raises:
            UsageError, TaskRefused: it is not valid, or a place is not below a root of the service.
        """
        return self._send("PUT", f"/flows/{name}", a.FlowAnswer, {"text": _text(flow)})

    def delete_flow(self, name: str) -> None:
        """Delete a flow. Its jobs stay in the history.

        Raises:
            UnknownName, WrongState: there is none, or a job of it has not ended.
        """
        self._send("DELETE", f"/flows/{name}", a.Count)

    def upload(self, flow: str, key: str, data: str | os.PathLike[str] | Body) -> int:
        """Upload an image into the source of a flow. Returns its size in bytes.

        Args:
            key: its path in the source.
            data: the path of a file; or bytes, an open binary file or pieces of bytes, which are sent as they are
                read.

        Raises:
            WrongState: there is such a file, or the source is not a local folder.
        """
        path, query = f"/flows/{flow}/upload", {"key": key}
        if isinstance(data, (str, os.PathLike)):
            with _opened(data) as file:
                found = self._connection.upload(path, query, file, os.fstat(file.fileno()).st_size)
        else:
            size = len(data) if isinstance(data, bytes) else None
            found = self._connection.upload(path, query, data, size)
        return _decoded(found, a.Uploaded).size

    def set_aside(self, flow: str, key: str, is_aside: bool = True) -> tuple[str, ...]:
        """Set an item aside, or put it back. Returns all items of the flow that are set aside."""
        data = {"key": key, "is_aside": is_aside}
        return self._send("POST", f"/flows/{flow}/aside", a.AsideList, data).keys

    # Jobs

    def start(self, flow: str) -> JobAnswer:
        """Start a job of a flow.

        Raises:
            UnknownName, UsageError, WrongState: there is no such flow, it is not valid, or a job of it has not
                ended.
        """
        return self._send("POST", f"/flows/{flow}/start", JobAnswer)

    def submit(self, name: str, job: str | Mapping[str, Any]) -> JobAnswer:
        """Run a job that belongs to no flow.

        Args:
            name: a new name for it. The same name with the same job is the same job: it may be sent again.
            job: as in `write_flow`.
        """
        return self._send("POST", "/jobs", JobAnswer, {"name": name, "text": _text(job)})

    def jobs(self, flow: str = "", before: int = 0, most: int = 50) -> tuple[JobAnswer, ...]:
        """Jobs, the latest first.

        Args:
            flow: only those of this flow.
            before: only those with lower numbers; 0 for all.
        """
        return self._get("/jobs", a.JobList, {"flow": flow, "before": before, "most": most}).jobs

    def job(self, id: int) -> JobAnswer:
        """A job.

        Raises:
            UnknownName: there is none with this number.
        """
        return self._get(f"/jobs/{id}", JobAnswer)

    def pause(self, id: int) -> JobAnswer:
        """Pause a job: its items in progress are finished."""
        return self._send("POST", f"/jobs/{id}/pause", JobAnswer)

    def resume(self, id: int) -> JobAnswer:
        """Go on with a paused job."""
        return self._send("POST", f"/jobs/{id}/resume", JobAnswer)

    def cancel(self, id: int) -> JobAnswer:
        """End a job: its items in progress are finished."""
        return self._send("POST", f"/jobs/{id}/cancel", JobAnswer)

    def retry(self, id: int, keys: Sequence[str] | None = None) -> int:
        """Try failed items again. Returns how many.

        Args:
            keys: which; None for all that failed.
        """
        data = {"keys": None if keys is None else list(keys)}
        return self._send("POST", f"/jobs/{id}/retry", a.Count, data).count

    def wait(self, id: int, timeout: float | None = None) -> JobAnswer:
        """Wait until a job has ended. A job of a watched flow ends only when it is cancelled.

        Raises:
            TimeoutError: it has not ended after so many seconds.
        """
        until = time.monotonic() + timeout if timeout is not None else float("inf")
        pause = 0.05
        while (job := self.job(id)).state not in ENDED:
            if time.monotonic() > until:
                raise TimeoutError(f"job {id} has not ended: it is {job.state}")
            time.sleep(pause)
            pause = min(1.0, 1.5 * pause)
        return job

    # Items

    def items(self, job: int, state: str = "", text: str = "") -> Iterator[ItemLine]:
        """The items of a job in the order of their keys. They are asked for while they are read.

        Args:
            state: only `done`, or only `failed` items.
            text: only items whose key or failure contains this text.
        """
        after: str | None = ""
        while after is not None:
            query = {"state": state, "text": text, "after": after, "most": 500}
            found = self._get(f"/jobs/{job}/items", a.ItemList, query)
            yield from found.items
            after = found.next

    def item(self, job: int, key: str) -> a.ItemAnswer:
        """One item of a job, with the traceback of a bug."""
        return self._get(f"/jobs/{job}/item", a.ItemAnswer, {"key": key})

    def outcomes(self, job: int, after: int = 0) -> OutcomeList:
        """The latest outcomes of a job's items, in the order in which they arrived.

        Args:
            after: `last` of the answer before; 0 for all that are kept.
        """
        return self._get(f"/jobs/{job}/outcomes", OutcomeList, {"after": after})

    def thumbnail(self, job: int, key: str) -> bytes:
        """A thumbnail of an item's input, as WebP."""
        return self._connection.ask("GET", f"/jobs/{job}/thumbnail", {"key": key})

    def picture(self, job: int, key: str, output: int | None = None) -> bytes:
        """An item's input, or one of its outputs from 0, reduced for a screen, as WebP."""
        query = {"key": key} if output is None else {"key": key, "which": "output", "number": output}
        return self._connection.ask("GET", f"/jobs/{job}/picture", query)

    # The rest

    def workers(self) -> a.Workers:
        """The engine, its tasks in progress, and the machine."""
        return self._get("/workers", a.Workers)

    def operators(self) -> tuple[a.OperatorAnswer, ...]:
        """The operators that recipes may use."""
        return self._get("/operators", a.OperatorList).operators

    def samples(self, source: str) -> tuple[str, ...]:
        """Some images of a source, to try a recipe on."""
        return self._send("POST", "/samples", a.Samples, {"source": source}).samples

    def preview(self, source: str, recipe: object, sample: str = "") -> Preview:
        """Try a recipe on an image of a source: what it looks like before and after, and what is planned.

        Args:
            recipe: as in a flow: a pipeline as text, a list of steps, or a mapping.
            sample: key of the image; empty for the first one.
        """
        data = {"source": source, "recipe": recipe, "sample": sample}
        return self._send("POST", "/preview", Preview, data)

    def plan(self, source: str, recipe: object, sample: str = "") -> tuple[str, ...]:
        """What is done for an image, and why, one line each."""
        return self.preview(source, recipe, sample).plan

    def events(self, after: str = "", patience: float = 60.0) -> Iterator[MessageAnswer]:
        """Changes in the service as they happen, without an end: `job`, `failed`, `flows`, `aside`.

        A broken connection is opened again, after the last message. A message of the kind `reset` says that some
        were missed: read again what you show. If no stream gets through, changes are asked for.

        Args:
            after: id of the last message that you know; empty to begin now.
            patience: seconds for which the service may be away.

        Raises:
            StorageError: it is away for longer.
        """
        broken, seen = 0, time.monotonic()
        while True:
            try:
                if broken >= MOST_BROKEN:
                    found = self._poll(after)
                else:
                    broken += 1
                    found = self._stream(after)
                for message in found:
                    seen = time.monotonic()
                    if message.id:
                        after = message.id
                    if message.kind != "hello":
                        broken = 0
                        yield message
            except StorageError:
                if time.monotonic() - seen > patience:
                    raise
            time.sleep(PAUSE)

    def _stream(self, after: str) -> Iterator[MessageAnswer]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        stream = self._connection.stream("/events", headers, SILENCE)
        try:
            if stream.media != "text/event-stream":
                return
            fields: dict[str, str] = {}
            while (line := stream.line()) is not None:
                name, _, value = line.partition(":")
                if name:
                    fields[name] = value.removeprefix(" ")
                elif fields.keys() & {"event", "id"} and not line:
                    data = msgspec.json.decode(fields.get("data", "{}"), type=dict[str, Any])
                    yield MessageAnswer(fields.get("id", ""), fields.get("event", ""), data)
                    fields = {}
        finally:
            stream.close()

    def _poll(self, after: str) -> Iterator[MessageAnswer]:
        found = self._get("/events/poll", a.Messages, {"after": after})
        if found.is_reset:
            yield MessageAnswer(found.last, "reset", {})
        yield from found.messages
        if not found.messages:
            yield MessageAnswer(found.last, "hello", {})

    def _get(self, path: str, kind: type[T], query: Mapping[str, object] | None = None) -> T:
        return _decoded(self._connection.ask("GET", path, query), kind)

    def _send(self, method: str, path: str, kind: type[T], data: object = None) -> T:
        return _decoded(self._connection.ask(method, path, None, data), kind)


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"the service answers in another way than this program expects: {error}") from None


def _text(flow: str | Mapping[str, Any]) -> str:
    if isinstance(flow, str):
        return flow
    import yaml

    text: str = yaml.safe_dump(msgspec.to_builtins(dict(flow)), sort_keys=False, allow_unicode=True)
    return text


def _opened(path: str | os.PathLike[str]) -> Any:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise StorageError(f"cannot read {os.fspath(path)}: {error.strerror}") from None
