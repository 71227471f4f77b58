"""Changes in a folder of Google Drive, by its change tokens.

A token stands for a point in time of a whole drive. Changes name files by ID. Which IDs are in the folder, and
their keys, is recorded while the folder is listed.
"""

from __future__ import annotations

from imageloom.errors import StorageError
from imageloom.stores.driveapi import FOLDER, Drive, File, Refusal


class DriveFeed:
    """The changes since the feed was created. See `stores.Feed`."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._token = drive.token()
        self._folders: dict[str, str] = {}
        self._keys: dict[str, str] = {}

    def note_folder(self, ids: tuple[str, ...], prefix: str) -> None:
        """Record a folder that was listed; its changes are reported from now on."""
        self._folders.update(dict.fromkeys(ids, prefix))

    def note_file(self, file_id: str, key: str) -> None:
        self._keys[file_id] = key

    def take(self) -> list[str] | None:
        """The keys of files that were added, changed or deleted since the last call. None if a folder was, or if
        the token has expired: then everything must be listed.

        Raises:
            StorageError: Drive cannot be asked.
        """
        try:
            changes, self._token = self._drive.changes(self._token, tries=2)  # the next request follows soon
        except Refusal as refusal:
            if refusal.status in (400, 404, 410):
                return None
            raise StorageError(f"cannot ask Drive for changes: {refusal}") from None
        keys: dict[str, None] = {}
        for change in changes:
            file = None if change.removed or (change.file and change.file.trashed) else change.file
            key = self._key(file) if file else None
            if change.file_id in self._folders or (file and file.mime_type == FOLDER):
                if self._has_moved(change.file_id, key, is_gone=file is None):
                    return None
                continue
            if before := self._keys.pop(change.file_id, None):
                keys[before] = None
            if key:
                self._keys[change.file_id] = key
                keys[key] = None
        return list(keys)

    def _has_moved(self, folder_id: str, key: str | None, is_gone: bool) -> bool:
        """Whether a folder was added, deleted or moved in the watched folder."""
        before = self._folders.get(folder_id)
        if before == "":
            return is_gone
        return before != (f"{key}/" if key else None)

    def _key(self, file: File) -> str | None:
        """The current key of a file or folder; None if it is outside the watched folder."""
        above = next((self._folders[parent] for parent in file.parents if parent in self._folders), None)
        return above + file.name if above is not None and "/" not in file.name else None
