"""What the numbers of pixels mean: colour profiles, codes and primaries, and the conversion to sRGB.

A file's statement about its colours becomes a short text, which a `Header` can hold:

- `""`: sRGB, or not stated;
- `profile RGB DIGEST` or `profile GRAY DIGEST`: an ICC profile, with the start of its SHA-256;
- `cicp PRIMARIES TRANSFER`: codes of ITU-T H.273;
- `gamma G` or `gamma G X Y ...`: PNG's gAMA and cHRM, times 100,000;
- `Adobe RGB`: as EXIF states it.

All but the first and the second say enough to build a profile (`build`). `bound` gives the bytes of a file's own
profile to the conversion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from imageloom.colours import icc as profiles
from imageloom.colours import recognize
from imageloom.colours.build import ADOBE_RGB, PRIMARIES, TRANSFERS, built

__all__ = ["ADOBE_RGB", "built", "fits", "hdr", "is_srgb", "label", "of_codes", "of_gamma", "of_profile"]

_SRGB_PRIMARIES, _SRGB_TRANSFER = 1, 13
_UNSTATED = 2
_HDR = {16: "PQ", 18: "HLG"}
_SRGB_GAMMAS = range(45_450, 45_461)
"""PNG's gAMA of programs that mean sRGB."""
_NEAR = 150
"""Largest difference of chromaticities that are the same, times 100,000."""


def of_profile(icc: bytes, channels: int) -> str:
    """The text for an ICC profile of pixels with so many channels; empty if it is sRGB, damaged, or of other
    colours than the pixels."""
    return _of_profile(icc, channels > 2) if icc else ""


@lru_cache(maxsize=64)
def _of_profile(icc: bytes, is_rgb: bool) -> str:
    found = profiles.parse(icc)
    if found is None or (found.space != "RGB" and (is_rgb or found.space != "GRAY")):
        return ""
    if recognize.is_srgb(found):
        return ""
    return f"profile {found.space} {hashlib.sha256(icc).hexdigest()[:32]}"


@lru_cache(maxsize=64)
def is_srgb(icc: bytes) -> bool:
    """Whether a profile says what readers assume of a file without one, as far as 8 bits can tell."""
    found = profiles.parse(icc)
    return found is not None and recognize.is_srgb(found)


def of_codes(primaries: int, transfer: int) -> str:
    """The text for codes of ITU-T H.273; empty for sRGB and for codes that state nothing or are unknown."""
    primaries = _SRGB_PRIMARIES if primaries == _UNSTATED else primaries
    transfer = _SRGB_TRANSFER if transfer == _UNSTATED else transfer
    if (primaries, transfer) == (_SRGB_PRIMARIES, _SRGB_TRANSFER):
        return ""
    known = primaries in PRIMARIES and (transfer in TRANSFERS or transfer in _HDR)
    return f"cicp {primaries} {transfer}" if known else ""


def of_gamma(gamma: int, chromaticities: Sequence[int]) -> str:
    """The text for the exponent of a file and its chromaticities, as in PNG's gAMA and cHRM; empty for sRGB."""
    white, *others = PRIMARIES[_SRGB_PRIMARIES]
    srgb = [round(100_000 * value) for pair in (white, *others) for value in pair]
    is_near = all(abs(a - b) <= _NEAR for a, b in zip(chromaticities, srgb, strict=False))
    if is_near and (not gamma or gamma in _SRGB_GAMMAS):
        return ""
    text = f"gamma {0 if gamma in _SRGB_GAMMAS else gamma}"
    if is_near:
        return text
    text = f"{text} {' '.join(map(str, chromaticities))}"
    return text if built(text, is_gray=False) else ""  # they may be no triangle


def hdr(text: str) -> str:
    """The name of the HDR transfer function: PQ or HLG; empty for other colours."""
    codes = text.split()
    return _HDR.get(int(codes[2]), "") if codes[:1] == ["cicp"] else ""


def fits(text: str, channels: int) -> bool:
    """Whether the colours can be those of pixels with so many channels."""
    return not text.startswith("profile") or text.startswith("profile RGB") == (channels > 2)


def label(text: str) -> str:
    """The colours for people."""
    kind, *values = text.split()
    if kind == "profile":
        return f"a colour profile ({'gray' if values[0] == 'GRAY' else values[0]}) other than sRGB"
    if kind == "cicp":
        return f"primaries {values[0]} and transfer {hdr(text) or values[1]} of ITU-T H.273"
    if kind == "gamma":
        stated = f"an exponent of {int(values[0]) / 100_000:g}" if int(values[0]) else "the curve of sRGB"
        return f"{stated}{' and primaries other than those of sRGB' if values[1:] else ''}"
    return f"{text} (EXIF)"
