"""Where a pipeline converts colours to sRGB, and what an output says of its colours.

The conversion is the last step, because it costs least after a resize, unless the pipeline says where (`to_srgb`).
It comes before a step after which the profile would mean nothing: before `grayscale`, if the profile is of RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from imageloom import codecs, operators
from imageloom.errors import UnsupportedImage
from imageloom.model import Format, Frame, Header, Recipe, Step


class Colouring(NamedTuple):
    """The steps of an output, and its colours."""

    steps: tuple[Step, ...]
    converted: bool = False
    """Whether a step converts to sRGB."""
    profile: str = ""
    """The text of `colours` for which a profile is built, because the output cannot say it as the input does."""


def placed(steps: Sequence[Step], header: Header, recipe: Recipe, format: Format) -> Colouring:
    """The steps with the conversion where it is needed.

    Raises:
        UnsupportedImage: the colours are HDR, and the output cannot say that.
    """
    plain = tuple(step for step in steps if step.name != "to_srgb")
    stated = header.colours
    if not stated:
        return Colouring(plain, converted=bool(header.stored))
    from imageloom import colours  # few files state other colours than sRGB

    frames = operators.frames(steps, header.frame)
    kept_by = _kept_by(stated, header, frames[-1], recipe, format)
    places = [at for at, step in enumerate(steps) if step.name == "to_srgb"]
    places += [at for at, frame in enumerate(frames[1:]) if _changes_kind(stated, frames[0], frame)]
    places += [0] if not colours.fits(stated, header.frame.channels) else []
    if recipe.colors == "srgb" or kept_by is None:
        places.append(len(plain))
    name = colours.hdr(stated)
    if name and (places or (header.frame.dtype != "uint8" and frames[-1].dtype == "uint8")):
        raise UnsupportedImage(
            f"the image is HDR ({name}), and this output cannot say that, or not with enough bits: keep 16 bits "
            "and choose --format png or avif, without to_srgb, --colors srgb and --metadata strip"
        )
    if not places:
        return Colouring(plain, profile=kept_by or "")
    at = min(places)
    before = tuple(step for step in steps[:at] if step.name != "to_srgb")
    after = tuple(step for step in steps[at:] if step.name != "to_srgb")
    return Colouring((*before, Step("convert_from", {"colours": stated}), *after), converted=True)


def _changes_kind(stated: str, first: Frame, frame: Frame) -> bool:
    """Whether a profile that fits pixels of the first frame does not fit those of the other one."""
    from imageloom import colours

    return colours.fits(stated, first.channels) and not colours.fits(stated, frame.channels)


def _kept_by(stated: str, header: Header, frame: Frame, recipe: Recipe, format: Format) -> str | None:
    """How an output can say its colours: "" as the input does, or the text to build a profile for; None: not."""
    if recipe.metadata == "strip":
        return None
    from imageloom import colours

    carries = codecs.carries(format, frame)
    is_gray = frame.channels <= 2
    has_profile = "colour profile" in carries
    if stated.startswith("profile"):
        return "" if has_profile and colours.fits(stated, frame.channels) else None
    if stated == colours.ADOBE_RGB:
        if format == header.format and "EXIF" in carries and not is_gray:
            return ""
    elif "colours" in carries and (
        stated.startswith("cicp") or not getattr(codecs.get(format), "only_codes", False)
    ):
        return ""
    return stated if has_profile and colours.built(stated, is_gray) else None
