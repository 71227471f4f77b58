"""The one tree of errors that imageloom raises.

    ImageloomError
    ├── UsageError (ValueError)       what was asked for cannot be meant; exit code 2
    │   └── PipelineError             an unknown operator, a bad parameter
    ├── NothingToDo                   the source matched no image; exit code 3
    ├── StorageError (OSError)        the source, the sink or the ledger cannot be used; exit code 4
    │   ├── SinkBusy                  another run writes into this sink
    │   └── ServerBusy                a server has as much as it takes; it may have room later
    ├── MissingExtra (ImportError)    an optional dependency is not installed
    ├── WorkerLost                    a worker died with tasks in hand: the driver tries them again
    ├── EngineFailed                  an engine cannot go on: the run ends, and can be resumed; exit code 4
    └── ItemError                     one item cannot be done; the others go on
        ├── CorruptImage              cut off, empty, or not what its header says
        ├── UnsupportedImage          a format or a flavour of it that is refused by name
        ├── LimitExceeded             over a limit, which the message names with its flag
        ├── OperatorRefused           an operator cannot take these pixels or these parameters
        ├── OperatorFailed            an operator raised
        ├── InvalidName               the item's name cannot be written down
        ├── OutputExists              the sink has a file of that name that imageloom did not make
        ├── DuplicateOutput           another item of the job has the same output name
        ├── TaskRefused               a worker may not do it: outside of its roots
        ├── TaskRejected              more workers refused it than the rules allow
        ├── ItemTimeout               it took longer than --timeout
        ├── Quarantined               several runs have ended with it in hand
        ├── InvalidResult             a worker sent a result that cannot be: see `results`
        ├── UnreadableItem            the source's bytes cannot be read
        └── UnwritableOutput          the sink did not take the output's bytes

An item's error crosses processes as a `model.Failure`: its class name, its message, whether another attempt
could help and, where it is a bug, its traceback.
"""

from __future__ import annotations

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
        what: what needs it, in words.
        extra: the name of the extra that brings it.
    """

    exit_code = 2

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra that is not installed: pip install 'imageloom[{extra}]'")


class WorkerLost(ImageloomError):
    """A worker died. The tasks that it held are not done; the driver decides on another attempt."""

    transient = True


class EngineFailed(ImageloomError):
    """An engine cannot go on. What it had in hand is not done."""

    exit_code = 4


class ItemError(ImageloomError):
    """One item cannot be done."""


class CorruptImage(ItemError):
    pass


class UnsupportedImage(ItemError):
    pass


class LimitExceeded(ItemError):
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


MOST_MESSAGE = 2000
"""Characters of a failure's message."""


def message_of(error: BaseException) -> str:
    """An error's message, whatever a library or an operator has put into it: short, and valid Unicode."""
    try:
        text = str(error)
    except Exception as unsaid:
        text = f"its message cannot be read: {type(unsaid).__name__}"
    return text[:MOST_MESSAGE].encode(errors="backslashreplace").decode()
