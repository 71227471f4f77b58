"""The paths below a folder that something has happened to, as the operating system tells them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from imageloom.errors import MissingExtra

STEP, GROUP = 20, 50
"""Milliseconds: between two looks at what was told, and that are gathered at the most."""
MOST_HELD = 50_000
"""Paths that wait to be taken; if there are more, the folder is to be listed."""
PATIENCE = 10.0
"""Seconds until the folder is listed all the same, where it takes long to watch all folders in it."""


class Changes:
    """Collects, in a thread, what changes below a folder, each path once until it is taken.

    Args:
        root: path of the folder.
        wake: called from that thread when there is something new.

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
        """Which folder is watched: another one may come under its path."""
        self._thread = threading.Thread(target=self._watch, name="changes", daemon=True)
        self._thread.start()
        self._is_watching.wait(PATIENCE)

    @property
    def are_over(self) -> bool:
        """Nothing more will be told of the folder that is there now."""
        return not self._thread.is_alive() or _identity(self._root) != self.identity

    @property
    def are_there(self) -> bool:
        return bool(self._paths) or self._are_too_many

    def take(self) -> list[str] | None:
        """The paths since the last time, in their order; None where there were too many."""
        with self._lock:
            paths, too_many = list(self._paths), self._are_too_many
            self._paths.clear()
            self._are_too_many = False
        return None if too_many else paths

    def close(self) -> None:
        self._is_closed = True
        self._thread.join(PATIENCE)

    def is_set(self) -> bool:
        """Asked by watchfiles again and again, for the first time when it watches: whether it is to stop."""
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
        except Exception as error:  # a limit of the system's, or the folder has gone
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
