"""Where credentials come from: S3's from the environment, the files of AWS's own tools, or the machine's role;
Google Drive's from Google's application default."""

from __future__ import annotations

import configparser
import os
import socket
from typing import Any
from urllib.parse import urlsplit

from imageloom.errors import MissingExtra, StorageError, UsageError
from imageloom.system.machine import is_loopback

_ROLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_NAMES = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "region": "region",
    "endpoint_url": "endpoint",
}
_METADATA = ("169.254.169.254", 80)

GOOGLE = "https://www.googleapis.com"
GOOGLE_FROM = "IMAGELOOM_DRIVE_ENDPOINT"
"""The variable that names another server, of this machine, which is asked without credentials: for tests."""
_SCOPE = "https://www.googleapis.com/auth/drive"


def aws() -> dict[str, str]:
    """What obstore does not find by itself: it reads the environment, not `~/.aws`.

    Raises:
        StorageError: there are no credentials.
    """
    profile = _profile()
    found = {ours: profile[theirs] for theirs, ours in _NAMES.items() if profile.get(theirs)}
    if "AWS_ACCESS_KEY_ID" in os.environ:
        for secret in ("access_key_id", "secret_access_key", "session_token"):
            found.pop(secret, None)
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        found["region"] = region
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        found["endpoint"] = endpoint
    if "AWS_ACCESS_KEY_ID" not in os.environ and "access_key_id" not in found and not _has_role():
        raise StorageError(
            "there are no credentials for s3://: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE with ~/.aws/credentials, or AWS_SKIP_SIGNATURE=true for a public bucket"
        )
    return found


def _profile() -> dict[str, str]:
    """The chosen profile of both files: keys are in one, region and endpoint mostly in the other."""
    name = os.environ.get("AWS_PROFILE", "default")
    found: dict[str, str] = {}
    for variable, usual, section in (
        ("AWS_CONFIG_FILE", "~/.aws/config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", name),
    ):
        path = os.path.expanduser(os.environ.get(variable, usual))
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeError):
            raise StorageError(f"cannot read {path}") from None  # the parser's own text repeats the line
        if parser.has_section(section):
            found |= dict(parser.items(section))
    return found


def _has_role() -> bool:
    """Whether the machine gives credentials, or none are wanted."""
    if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true") or any(
        role in os.environ for role in _ROLES
    ):
        return True
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    try:
        socket.create_connection(_METADATA, 1).close()
    except OSError:
        return False
    return True


def google() -> tuple[str, Any]:
    """Where Google Drive is, and the credentials of google-auth for it.

    Raises:
        MissingExtra: google-auth or requests is not installed.
        UsageError: `GOOGLE_FROM` leads to another machine.
        StorageError: there are no credentials.
    """
    try:
        import google.auth
        import google.auth.credentials
        import google.auth.exceptions
        import requests  # noqa: F401  # google-auth's transport
    except ImportError:
        raise MissingExtra("gdrive://", "gdrive") from None
    if origin := os.environ.get(GOOGLE_FROM):
        if not _is_loopback(origin):
            raise UsageError(f"{GOOGLE_FROM} must be a server on this machine, such as http://127.0.0.1:8080")
        anonymous = google.auth.credentials.AnonymousCredentials()  # type: ignore[no-untyped-call]
        return origin.rstrip("/"), anonymous
    try:
        return GOOGLE, google.auth.default(scopes=[_SCOPE])[0]
    except google.auth.exceptions.GoogleAuthError:
        raise StorageError(
            "there are no credentials for gdrive://: set GOOGLE_APPLICATION_CREDENTIALS to the key file of a "
            "service account that can access the folder, or run gcloud auth application-default login "
            f"--scopes={_SCOPE},https://www.googleapis.com/auth/cloud-platform"
        ) from None


def _is_loopback(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and is_loopback(parts.hostname or "")
