"""A program that crashes is started again, with its arguments and as the same process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from imageloom.system import restart

PROGRAM = """
import ctypes, os, signal, sys, threading, time
from imageloom.system.restart import has_crashed, restarted_after_crash
crashed = has_crashed()
print(os.getpid(), crashed, os.environ.get("IMAGELOOM_CRASHED"), sys.argv[1:], os.environ["OTHER"], flush=True)
def crash():
    time.sleep(0.01)
    if sys.argv[1] == "abort":
        os.abort()
    if sys.argv[1] == "null":
        ctypes.string_at(0)
    signal.raise_signal(getattr(signal, sys.argv[1]))
with restarted_after_crash(not crashed or sys.argv[2] == "always"):
    if not crashed or sys.argv[2] == "twice":
        thread = threading.Thread(target=crash)
        thread.start()
        thread.join()
print(signal.getsignal(signal.SIGSEGV) == signal.SIG_DFL, *signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="for Linux on x86-64"
)


def run(*arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | {"OTHER": "ä = b"},
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("how", ["null", "abort", "SIGBUS", "SIGILL", "SIGFPE"])
def test_it_is_the_same_process_with_the_same_arguments(how: str) -> None:
    code, lines = run(how, "once", "ü \n")
    assert code == 0
    assert len(lines) == 3
    (first, is_restarted, *_), (again, was_restarted, *rest) = (line.split(" ", 2) for line in lines[:2])
    assert (is_restarted, was_restarted) == ("False", "True")
    assert first == again
    assert rest == [f"None {[how, 'once', 'ü ' + chr(10)]!r} ä = b"]
    assert lines[2] == "True", "no signal is blocked"


def test_it_is_done_once() -> None:
    code, lines = run("null", "twice")
    assert code == -signal.SIGSEGV
    assert len(lines) == 2


def test_the_handlers_are_restored() -> None:
    before = {number: signal.getsignal(number) for number in restart.CRASHES}
    with restart.restarted_after_crash():
        pass
    assert {number: signal.getsignal(number) for number in restart.CRASHES} == before
