"""Checks the values of plain data that a Python program has made: their types, choices and ranges."""

from __future__ import annotations

import typing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TypeVar
from uuid import UUID

import msgspec

from imageloom.errors import UsageError
from imageloom.operators.messages import describe

_T = TypeVar("_T", bound=msgspec.Struct)
_NO_TEXTS = (bytes, bytearray, memoryview, datetime, date, time, timedelta, Decimal, UUID)
"""Types that msgspec would make texts of."""


def validated(value: _T) -> _T:
    """The same value, if each of its fields is valid.

    Raises:
        UsageError: a field has a wrong type, is none of the choices, or is out of its range; the message names
            the field, what was given, and what it must be.
    """
    hints = typing.get_type_hints(type(value), include_extras=True)
    for name in value.__struct_fields__:
        given = getattr(value, name)
        try:
            msgspec.convert(msgspec.to_builtins(given, builtin_types=_NO_TEXTS), hints[name])
        except UnicodeEncodeError:
            raise UsageError(f"{name} = {given!r}: it must be Unicode, without surrogates") from None
        except (msgspec.ValidationError, TypeError, OverflowError) as error:
            inner = str(error).partition(" - at `$")[2].rstrip("`").lstrip(".")
            if inner:
                raise UsageError(f"{name}: {inner}: {str(error).partition(' - at ')[0].lower()}") from None
            raise UsageError(f"{name} = {given!r}: it must be {describe(hints[name])}") from None
    return value
