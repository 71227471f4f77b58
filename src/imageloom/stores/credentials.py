"""Finds credentials. S3: from the environment, the files of the AWS tools, or the machine's role. Google Drive:
Google's application default credentials."""

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
"""Environment variable with the address of a test server on this machine, used without credentials."""
_SCOPE = "https://www.googleapis.com/auth/drive"


def aws() -> dict[str, str]:
    """S3 settings that obstore does not find itself: it reads the environment, but not `~/.aws`.

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
    """The selected profile, merged from both files: one has the keys, the other usually region and endpoint."""
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
            raise StorageError(
                f"cannot read {path}"
            ) from None  # the parser's message would repeat a line with secrets
        if parser.has_section(section):
            found |= dict(parser.items(section))
    return found


def _has_role() -> bool:
    """Whether the machine has a role that provides credentials, or requests are not signed."""
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
    """The address of Google Drive's API, and google-auth's credentials for it.

    Raises:
        MissingExtra: google-auth or requests is not installed.
        UsageError: `GOOGLE_FROM` is an address of another machine.
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
