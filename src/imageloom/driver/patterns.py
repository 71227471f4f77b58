"""Patterns that choose files by their keys, as .gitignore does.

*.jpg         files of this name in any folder; also A.JPG: the case of a suffix does not matter
drafts        each file or folder of this name, and all below such a folder
drafts/       only folders of this name
2024/*.jpg    files directly in the folder 2024 of the source
2024/**       all below this folder; `**` stands for any number of folders, also none
*.{jpg,png}   either suffix
[a-f]?.png    one of several characters, and any one character
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imageloom.errors import UsageError

if TYPE_CHECKING:
    from wcmatch.glob import WcMatcher


MOST_LENGTH = 1000
"""Maximum length of a pattern, in characters."""
MOST_FOLDERS = 3
"""Maximum number of `**` in a pattern: with more, matching a deep path would take long."""


class Pattern:
    """One pattern.

    Raises:
        UsageError: it is empty or too long, has too many `**`, or stands for too many alternatives.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MOST_LENGTH:
            raise UsageError(f"a pattern has {len(text):,} characters, over the limit of {MOST_LENGTH:,}")
        if text.count("**") > MOST_FOLDERS:
            raise UsageError(
                f"the pattern {text[:80]!r} has more than {MOST_FOLDERS} `**`, which is the limit"
            )
        self._only_folders = text.endswith("/")
        plain = text.strip("/")
        if not plain:
            raise UsageError(f"the pattern {text!r} is empty: give a pattern such as '*.jpg'")
        anywhere = "/" not in text.rstrip("/")
        self._exact = _compiled(plain, anywhere)
        self._by_suffix = _compiled(_with_plain_suffix(plain), anywhere)

    def fits(self, key: str) -> bool:
        """Whether the pattern fits a file, or a folder above it.

        Args:
            key: path relative to the source; it ends with a slash for a folder.
        """
        is_folder = key.endswith("/")
        name = key.rstrip("/")
        if (is_folder or not self._only_folders) and self._fits(name):
            return True
        return any(self._exact.match(name[:at]) for at, letter in enumerate(name) if letter == "/")

    def _fits(self, name: str) -> bool:
        return self._exact.match(name) or self._by_suffix.match(_with_plain_suffix(name))


def _compiled(text: str, anywhere: bool) -> WcMatcher[str]:
    from wcmatch import glob  # most runs have no pattern

    flags = glob.GLOBSTAR | glob.BRACE | glob.DOTGLOB | glob.FORCEUNIX
    try:
        return glob.compile(f"**/{text}" if anywhere else text, flags=flags)
    except Exception:  # wcmatch does not export the exception
        raise UsageError(
            f"the pattern {text[:80]!r} cannot be used: its braces may stand for at most 1,000 patterns"
        ) from None


def _with_plain_suffix(name: str) -> str:
    """The name with its suffix in lower case."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{dot}{suffix.lower()}" if dot else name
