"""Starts `imageloom run` and `imageloom watch` again after a native crash.

The engines `threads` and `serial` decode some formats in the process of the run, and a crash in native code ends
that process. So the run is a child of the process that the user has started. If the child crashes, it is started
once more: it skips what is done, and processes each item in other processes, so that no further crash can end it.

The parent is forked from before the imports: it costs about a millisecond and waits for signals only. It passes
them on, ends as the child has ended, and the kernel ends the child if the parent is killed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from imageloom.cli.signals import SIGNALS, listen
from imageloom.cli.text import say
from imageloom.system.exits import cause_of, die_with_parent

CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
_WAITED_FOR = {*SIGNALS, signal.SIGTSTP, signal.SIGCHLD}

has_crashed = False
"""Whether this process is the run that was started after a crash."""


def is_supervised(arguments: Sequence[str]) -> bool:
    """Whether the command with these arguments may crash in a decoder, and can be started again."""
    words = list(arguments)
    if words[:1] == ["--config"]:
        del words[:2]
    if sys.platform != "linux" or words[:1] not in (["run"], ["watch"]):
        return False
    if {"-h", "--help", "--dry-run", "--untrusted"} & set(words):
        return False
    if _value("--files-from", words) == "-":  # stdin can be read only once
        return False
    return _value("--engine", words) in ("", "auto", "threads", "serial") and _value("--sandbox", words) in (
        "",
        "auto",
    )


def _value(option: str, words: list[str]) -> str:
    """The value of an option; "" if it is not given."""
    found = ""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else following
    return found


def supervise() -> None:
    """Fork, and return in the child only. Call it while there is one thread."""
    global has_crashed  # noqa: PLW0603  the child is this program
    parent = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    while True:
        passed, passing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(passing)
            die_with_parent()
            if os.getppid() != parent:  # it has ended before
                os._exit(1)
            listen(passed)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED_FOR)
            return
        os.close(passed)
        code, is_stopping = _wait(child, passing)
        os.close(passing)
        if -code not in CRASHES or is_stopping or has_crashed:
            _end_as(code)
        has_crashed = True
        say(
            f"imageloom: the run has crashed ({cause_of(code)}); it goes on, and processes each image in another "
            "process",
            err=True,
        )


def _wait(child: int, passing: int) -> tuple[int, bool]:
    """Wait for the end of the child, and pass signals on.

    Returns:
        Its exit code, negative for a signal, and whether it was asked to end.
    """
    is_stopping = False
    while True:
        number = signal.sigwait(_WAITED_FOR)
        if number in SIGNALS:
            is_stopping = True
            with suppress(BrokenPipeError):
                os.write(passing, bytes([number]))
        elif number == signal.SIGTSTP:
            os.kill(child, signal.SIGTSTP)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
            os.kill(os.getpid(), signal.SIGTSTP)  # returns when this process is continued
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
            os.kill(child, signal.SIGCONT)
        else:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), is_stopping


def _end_as(code: int) -> None:
    """End this process as another one has ended."""
    if code < 0:
        import resource  # few runs end so

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)
