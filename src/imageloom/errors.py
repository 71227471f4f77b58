"""The tree of all errors that imageloom raises.

    ImageloomError
    ├── UsageError (ValueError)       an argument is invalid; exit code 2
    │   ├── PipelineError             an unknown operator, or an invalid parameter
    │   ├── UnknownName               there is no flow, job or item of this name
    │   └── WrongState                the state of a flow, job or item does not allow this
    ├── NothingToDo                   no image matched in the source; exit code 3
    ├── StorageError (OSError)        the source, the sink or the ledger cannot be used; exit code 4
    │   ├── MissingFile (FileNotFoundError)  there is no such file
    │   ├── SinkBusy                  another run writes into this sink
    │   └── ServerBusy                a server is at a limit; try again later
    ├── MissingExtra (ImportError)    an optional dependency is not installed
    ├── WorkerLost                    a worker died while processing tasks; the driver retries them
    ├── EngineFailed                  an engine cannot continue: the run ends, and can be resumed; exit code 4
    └── ItemError                     one item failed; the others continue
        ├── CorruptImage              the file is cut off, empty, or contradicts its header
        ├── UnsupportedImage          the format, or this variant of it, is not supported
        ├── LimitExceeded             over a limit; the message names the limit and its flag
        ├── MetadataLost              an output would lack something of the input (--strict-metadata)
        ├── OperatorRefused           an operator does not accept these pixels or parameters
        ├── OperatorFailed            an operator raised an exception
        ├── MissingField              a name or a text needs a field that the item does not have
        ├── InvalidName               the item's name, or its output's name, is not a valid path
        ├── OutputExists              the sink has a file of that name that imageloom did not make
        ├── DuplicateOutput           another item of the job has the same output name
        ├── NotBegun                  the run was stopped before a worker began the item
        ├── TaskRefused               a worker is not allowed to do the task: a path is outside its roots
        ├── TaskRejected              the task was refused by workers too often
        ├── ItemTimeout               the item took longer than --timeout
        ├── Quarantined               several runs ended abnormally while processing the item
        ├── InvalidResult             a worker sent an impossible result: see `scheduling.results`
        ├── UnreadableItem            the item's file cannot be read
        └── UnwritableOutput          the output cannot be written into the sink
            └── DiskFull              there is no space for it, or a quota is used up

An item's error is sent between processes as a `model.Failure`: class name, message, whether a retry may help, and
the traceback of a bug.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class ImageloomError(Exception):
    """The base of all errors that imageloom raises on purpose."""

    exit_code: ClassVar[int] = 1
    """The exit code of `imageloom` if this error ends it."""
    transient: ClassVar[bool] = False
    """Another attempt may succeed."""


class UsageError(ImageloomError, ValueError):
    """An argument is invalid."""

    exit_code = 2


class PipelineError(UsageError):
    """An unknown operator, or an invalid parameter."""


class UnknownName(UsageError):
    pass


class WrongState(UsageError):
    pass


class NothingToDo(ImageloomError):
    """No image matched in the source."""

    exit_code = 3


class StorageError(ImageloomError, OSError):
    """The source, the sink or the ledger cannot be used."""

    exit_code = 4


class MissingFile(StorageError, FileNotFoundError):
    """There is no such file."""


class SinkBusy(StorageError):
    """Another run writes into this sink."""


class ServerBusy(StorageError):
    """A server is at a limit; try again later."""


class MissingExtra(ImageloomError, ImportError):
    """An optional dependency is not installed.

    Args:
        what: the feature that needs it, for the message.
        extra: the name of the extra of imageloom that installs it.
    """

    exit_code = 2

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra that is not installed: pip install 'imageloom[{extra}]'")


class WorkerLost(ImageloomError):
    """A worker died. Its tasks are not done; the driver decides whether to retry them."""

    transient = True


class EngineFailed(ImageloomError):
    """An engine cannot continue. Its tasks in flight are not done."""

    exit_code = 4


class ItemError(ImageloomError):
    """One item failed."""


class CorruptImage(ItemError):
    """The file is cut off, empty, or contradicts its header."""


class UnsupportedImage(ItemError):
    """The format, or this variant of it, is not supported."""


class LimitExceeded(ItemError):
    """Over a limit; the message names the limit and its flag."""


class MetadataLost(ItemError):
    """An output would lack something of the input (--strict-metadata)."""


class OperatorRefused(ItemError):
    """An operator does not accept these pixels or parameters."""


class OperatorFailed(ItemError):
    """An operator raised an exception."""

    transient = True


class MissingField(ItemError):
    """A name or a text needs a field that the item does not have."""


class InvalidName(ItemError):
    """The item's name, or its output's name, is not a valid path."""


class OutputExists(ItemError):
    """The sink has a file of that name that imageloom did not make."""


class DuplicateOutput(ItemError):
    """Another item of the job has the same output name."""


class NotBegun(ItemError):
    """The run was stopped before a worker began the item. The driver does not record it."""


class TaskRefused(ItemError):
    """A worker is not allowed to do the task: a path is outside its roots."""


class TaskRejected(ItemError):
    """The task was refused by workers too often."""


class ItemTimeout(ItemError):
    """The item took longer than --timeout."""

    transient = True


class Quarantined(ItemError):
    """Several runs ended abnormally while processing the item."""


class InvalidResult(ItemError):
    """A worker sent an impossible result: see `scheduling.results`."""

    transient = True


class UnreadableItem(ItemError):
    """The item's file cannot be read."""

    transient = True


class UnwritableOutput(ItemError):
    """The output cannot be written into the sink."""

    transient = True


class DiskFull(UnwritableOutput):
    pass


def unwritable(what: str, error: OSError) -> UnwritableOutput:
    """The error for an output that the system could not write.

    Args:
        what: what could not be done, such as "cannot write to /out".
    """
    kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else UnwritableOutput
    return kind(f"{what}: {error.strerror or error}")


MOST_MESSAGE = 2000
"""Maximum length of a failure's message, in characters."""


def message_of(error: BaseException) -> str:
    """An error's message, shortened to MOST_MESSAGE characters and made valid Unicode."""
    try:
        text = str(error)
    except Exception as unsaid:
        text = f"its message cannot be read: {type(unsaid).__name__}"
    return text[:MOST_MESSAGE].encode(errors="backslashreplace").decode()
