"""The tree of all errors that imageloom raises.

    ImageloomError
    ├── UsageError (ValueError)       an argument is invalid; exit code 2
    │   ├── PipelineError             an unknown operator, or an invalid parameter
    │   ├── UnknownName               there is no flow, job or item of this name
    │   └── WrongState                the state of a flow, job or item does not allow this
    ├── NothingToDo                   no image matched in the source; exit code 3
    ├── StorageError (OSError)        the source, the sink or the ledger cannot be used; exit code 4
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
    transient: ClassVar[bool] = False
    """Another attempt may succeed."""


class UsageError(ImageloomError, ValueError):
    exit_code = 2


class PipelineError(UsageError):
    pass


class UnknownName(UsageError):
    pass


class WrongState(UsageError):
    pass


class NothingToDo(ImageloomError):
    exit_code = 3


class StorageError(ImageloomError, OSError):
    exit_code = 4


class SinkBusy(StorageError):
    pass


class ServerBusy(StorageError):
    pass


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
    pass


class UnsupportedImage(ItemError):
    pass


class LimitExceeded(ItemError):
    pass


class MetadataLost(ItemError):
    pass


class OperatorRefused(ItemError):
    pass


class OperatorFailed(ItemError):
    transient = True


class InvalidName(ItemError):
    pass


class OutputExists(ItemError):
    pass


class DuplicateOutput(ItemError):
    pass


class NotBegun(ItemError):
    """The run was stopped before a worker began the item. The driver does not record it."""


class TaskRefused(ItemError):
    pass


class TaskRejected(ItemError):
    pass


class ItemTimeout(ItemError):
    transient = True


class Quarantined(ItemError):
    pass


class InvalidResult(ItemError):
    transient = True


class UnreadableItem(ItemError):
    transient = True


class UnwritableOutput(ItemError):
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
