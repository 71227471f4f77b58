"""Change notifications of the operating system for a local folder."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from imageloom.errors import MissingExtra

STEP, GROUP = 20, 50
"""Milliseconds between two checks for notifications (STEP), and the longest time to collect them (GROUP)."""
MOST_HELD = 50_000
"""Maximum number of paths that are kept; with more, the whole folder must be listed."""
PATIENCE = 10.0
"""Seconds after which the folder is listed anyway, if setting up the watch takes long."""


class Changes:
    """Collects the paths that change below a folder, in a separate thread. Each path is kept once.

    Args:
        root: path of the folder.
        wake: called from that thread when a new path was added.

    Raises:
        MissingExtra: watchfiles is not installed.
    """

    def __init__(self, root: str, wake: Callable[[], None]) -> None:
        try:
            import watchfiles  # noqa: F401  # here, where it can still be said
        except ImportError:
            raise MissingExtra("watching a local folder without --poll", "watch") from None
        self._root = root
        self._wake = wake
        self._lock = threading.Lock()
        self._paths: dict[str, None] = {}
        self._are_too_many = False
        self._is_closed = False
        self._is_watching = threading.Event()
        self.identity = _identity(root)
        """Identity of the watched folder: another folder may later have the same path."""
        self._thread = threading.Thread(target=self._watch, name="changes", daemon=True)
        self._thread.start()
        self._is_watching.wait(PATIENCE)

    @property
    def have_ended(self) -> bool:
        """Whether there will be no more notifications for the folder that now has this path."""
        return not self._thread.is_alive() or _identity(self._root) != self.identity

    @property
    def are_there(self) -> bool:
        return bool(self._paths) or self._are_too_many

    def take(self) -> list[str] | None:
        """The paths since the last call, in order; None if there were too many."""
        with self._lock:
            paths, too_many = list(self._paths), self._are_too_many
            self._paths.clear()
            self._are_too_many = False
        return None if too_many else paths

    def close(self) -> None:
        self._is_closed = True
        self._thread.join(PATIENCE)

    def is_set(self) -> bool:
        """Whether to stop. Called by watchfiles repeatedly; the first call means that the watch is set up."""
        self._is_watching.set()
        return self._is_closed

    def _watch(self) -> None:
        import watchfiles

        try:
            for changes in watchfiles.watch(
                self._root,
                watch_filter=None,
                step=STEP,
                debounce=GROUP,
                rust_timeout=0,
                stop_event=self,
                ignore_permission_denied=True,
            ):
                self._note([path for _, path in changes])
        except Exception as error:  # a limit of the system, or the folder was deleted
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            logging.getLogger(__name__).warning(
                "change notifications for %s do not work, it is listed periodically: %s", self._root, reason
            )
        finally:
            self._is_watching.set()

    def _note(self, paths: list[str]) -> None:
        with self._lock:
            self._paths.update(dict.fromkeys(paths))
            if len(self._paths) > MOST_HELD:
                self._paths.clear()
                self._are_too_many = True
        self._wake()


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
