"""Plans: the steps, the options of the decoder and the encoder for one item, from its header and the recipe.

A plan is a pure function of both. Therefore all engines and workers make the same plan. How an item is run
(batches, tiles, memory) depends on the limits of the run and never changes a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from imageloom import codecs, operators
from imageloom.codecs.metadata import NO_METADATA, Carried, Metadata
from imageloom.errors import LimitExceeded, MetadataLost, UnsupportedImage
from imageloom.model import (
    COPIES,
    Decode,
    Encoding,
    Format,
    Frame,
    GainMap,
    Header,
    Limits,
    Output,
    Pixels,
    Plain,
    Recipe,
    Step,
    Thing,
)
from imageloom.recipes.colouring import Colouring, placed
from imageloom.recipes.resolving import resolved
from imageloom.recipes.rewrite import rewrite

if TYPE_CHECKING:
    from imageloom.codecs.adapt import Target

BATCH_PIXELS = 4_000_000
"""Maximum number of decoded pixels in a batch: 30 to 60 ms of work on one core."""
BATCH_ITEMS = 64

UPRIGHT: dict[int, tuple[Step, ...]] = {
    1: (),
    2: (Step("flip"),),
    3: (Step("rotate", {"degrees": 180}),),
    4: (Step("flip", {"axis": "vertical"}),),
    5: (Step("rotate", {"degrees": 90}), Step("flip")),
    6: (Step("rotate", {"degrees": 90}),),
    7: (Step("rotate", {"degrees": 270}), Step("flip")),
    8: (Step("rotate", {"degrees": 270}),),
}
"""The steps that apply each EXIF orientation to the stored pixels (Exif 2.32, tag 274)."""


class OutputPlan(Plain, frozen=True):
    """The plan of one output."""

    steps: tuple[Step, ...]
    frame: Frame
    """Frame of the pixels to encode."""
    format: Format
    encoding: Encoding
    moved: bool
    """Whether a step moves pixels: a resize, a crop, a turn."""
    dropped: tuple[Thing, ...] = ()
    """What the pixels of the output lack."""
    colours: str = ""
    """What the input states of its colours, see `Header.colours`."""
    converted: bool = False
    """Whether a step converts the colours to sRGB."""
    profile: str = ""
    """The text of `colours` for which a profile is built, because the output cannot say it as the input does."""
    original: Frame | None = None
    """The frame of the input's file."""
    decoded: Frame | None = None
    """The frame before the first step."""
    gain_map: GainMap = "keep"
    place: int = 0
    """The output's place in the recipe."""
    only_if_smaller: bool = False
    """A file that is not smaller than the item's own file is not written."""
    equals_input: bool = False
    """The item's own file has the format and the pixels of the output, and may have its metadata."""

    @property
    def target(self) -> Target:
        """What the input's metadata is adapted to."""
        from imageloom import colours  # plain photos need neither
        from imageloom.codecs.adapt import Target

        is_gray = self.frame.without_extra.channels <= 2
        return Target(
            self.frame,
            codecs.carries(self.format, self.frame),
            self.moved,
            changed=self.moved or bool(self.steps),
            shows_all=all(step.name in _SHOWING_ALL for step in self.steps),
            dropped=frozenset(self.dropped),
            keywords=getattr(codecs.get(self.format), "keywords", ()),
            can_state=getattr(codecs.get(self.format), "can_state", None),
            moves_values=getattr(codecs.get(self.format), "moves_values", False),
            colours=self.colours,
            converted=self.converted,
            profile=colours.built(self.profile, is_gray) if self.profile else b"",
        )

    def sized(self, pixels: Pixels) -> OutputPlan:
        """The plan for pixels of another size, which a step has found.

        Raises:
            UnsupportedImage: the format does not support that size.
        """
        frame = replace(self.frame, width=pixels.shape[1], height=pixels.shape[0])
        if reason := codecs.get(self.format).cannot_hold(frame):
            raise UnsupportedImage(reason)
        return replace(self, frame=frame)

    def carried(self, metadata: Metadata) -> Carried:
        """What the output takes along of the input's metadata, with the gain map for its pixels."""
        if metadata == NO_METADATA:
            return Carried(NO_METADATA, frozenset(self.dropped))
        from imageloom.codecs.adapt import for_output

        if not metadata.gain_map:
            return for_output(metadata, self.target)
        if self.gain_map == "drop":
            return for_output(replace(metadata, gain_map=b""), self.target)
        assert self.original is not None, "a plan of an item"
        assert self.decoded is not None, "a plan of an item"
        from imageloom.recipes import gainmap  # few files have one

        made = gainmap.processed(metadata.gain_map, self.steps, self.original, self.decoded)
        carried = for_output(replace(metadata, gain_map=made), self.target)
        return carried if made else carried._replace(dropped=carried.dropped | {"gain map"})


_SHOWING_ALL = ("resize", "flip", "rotate", "convert_from")


class Plan(Plain, frozen=True):
    """The plan of one item."""

    luma: bool
    """Decode only the luma (brightness)."""
    scale: int
    """Divisor of the width and the height of the decoded image: 1, 2, 4 or 8, or one of `Header.scales`."""
    decoded: Frame
    outputs: tuple[OutputPlan, ...]
    bytes: int
    """The peak memory for the item, including the input's pixels and the outputs' bytes."""

    @property
    def needs_file(self) -> bool:
        """Whether outputs are compared with the file, so that the item is processed as a whole."""
        return any(output.only_if_smaller for output in self.outputs)

    @property
    def needs_profile(self) -> bool:
        """Whether a step needs the profile of the file."""
        return any(output.converted and output.colours.startswith("profile") for output in self.outputs)


def other_pages(header: Header, recipe: Recipe) -> frozenset[Thing]:
    """What is not done of a file with several pages, unless the recipe asks for certain pages."""
    if header.pages == 1 or recipe.pages != "first":
        return frozenset()
    return frozenset({"animation" if header.format in ("gif", "webp") else "pages"})


def refuse_losses(recipe: Recipe, dropped: frozenset[Thing]) -> frozenset[Thing]:
    """What an output lacks, if the recipe accepts that.

    Raises:
        MetadataLost: it does not.
    """
    if recipe.metadata == "strict" and (lost := ", ".join(sorted(dropped - COPIES))):
        raise MetadataLost(f"the output would lack what the input has: {lost} (--strict-metadata)")
    return dropped


UNSUSPECTED = 64 << 20
"""Any file may decode to this number of bytes; only above it the expansion is checked."""


def check_limits(header: Header, limits: Limits, size: int) -> None:
    """Check the limits before an image is decoded.

    Args:
        size: size of the file in bytes.

    Raises:
        LimitExceeded: the image is over a limit; the message names the limit, its value and its flag.
    """
    if header.frame.pixels > limits.max_pixels:
        raise LimitExceeded(
            f"the image has {header.frame.pixels:,} pixels ({header.frame.width}x{header.frame.height}), over the "
            f"limit of {limits.max_pixels:,} (--max-pixels)"
        )
    unfolded = header.frame.bytes + header.buffered
    if unfolded > max(UNSUSPECTED, size * limits.max_expansion):
        raise LimitExceeded(
            f"the file of {size:,} bytes would decode to {unfolded:,} bytes, over the limit of "
            f"{limits.max_expansion:,} bytes per byte of the file (--max-expansion)"
        )


@lru_cache(maxsize=1024)
def _plan(header: Header, recipe: bytes) -> Plan:
    return _make_plan(header, msgspec.msgpack.decode(recipe, type=Recipe))


_encode = msgspec.msgpack.Encoder().encode
_latest: list[tuple[Header, Recipe, bytes, Plan]] = []
"""The last plan, with what it was made from, and the recipe's bytes: one is often asked for again at once."""


operators.reloaded += [lambda module: _plan.cache_clear(), lambda module: _latest.clear()]


def make_plan(header: Header, recipe: Recipe) -> Plan:
    """The plan for an image with this header.

    Raises:
        OperatorRefused: a step does not accept its input.
        UnsupportedImage: the output's format does not support the pixels.
    """
    encoded = b""
    for its_header, its_recipe, its_bytes, plan in _latest:
        if its_recipe is recipe and its_header is header:
            return plan
        encoded = its_bytes if its_recipe is recipe else b""
    encoded = encoded or _encode(recipe)
    plan = _plan(header, encoded)
    _latest[:] = [(header, recipe, encoded, plan)]
    return plan


def _make_plan(header: Header, recipe: Recipe) -> Plan:
    upright = UPRIGHT[header.orientation]
    found = list(resolved(header, recipe))
    if not found:
        return Plan(False, 1, header.frame, (), 0)
    places, asked = zip(*found, strict=True)
    formats = [codecs.written_as(output.format, header.format) for output in asked]
    dropped = [_dropped(header.frame, format) for format in formats]
    coloured = [
        placed(
            rewrite((*(_DROP_EXTRA if lost else ()), *upright, *output.steps), header.frame),
            header,
            recipe,
            format,
        )
        for output, format, lost in zip(asked, formats, dropped, strict=True)
    ]
    rewritten = [one.steps for one in coloured]
    luma = (
        header.scalable
        and header.frame.channels == 3
        and recipe.decode != "exact"
        and all(_wants_luma(steps) for steps in rewritten)
    )
    scale = 1
    scales = DCT_SCALES if header.scalable else header.scales
    if scales and recipe.decode != "exact":
        scale = min(_scale(steps, header.frame, recipe.decode, scales) for steps in rewritten)
    decoded = replace(
        header.frame,
        width=-(-header.frame.width // scale),
        height=-(-header.frame.height // scale),
        channels=1 if luma else header.frame.channels,
    )
    outputs = tuple(
        _plan_output(one, decoded, header, output, format, recipe, lost, place)
        for one, output, format, lost, place in zip(coloured, asked, formats, dropped, places, strict=True)
    )
    return Plan(luma, scale, decoded, outputs, _peak(decoded, outputs) + header.buffered)


_DROP_EXTRA = (Step("drop_extra"),)


def _dropped(frame: Frame, format: Format) -> tuple[Thing, ...]:
    """What pixels of this frame lose in an output of a format."""
    return ("extra samples",) if frame.extra and "extra samples" not in codecs.get(format).carries else ()


def _plan_output(
    coloured: Colouring,
    decoded: Frame,
    header: Header,
    output: Output,
    format: Format,
    recipe: Recipe,
    dropped: tuple[Thing, ...],
    place: int,
) -> OutputPlan:
    codec = codecs.get(format)
    steps = operators.with_checks(rewrite(coloured.steps, decoded), decoded)
    frame = operators.frames(steps, decoded)[-1]
    reason = codec.cannot_hold(frame)
    if reason:
        raise UnsupportedImage(reason)
    encoding = Encoding(
        codec.quality if output.quality is None else output.quality,
        lossless=output.lossless
        or (header.lossless and header.format == format and output.quality is None and not output.max_bytes),
        subsampling=header.subsampling if output.subsampling == "keep" else output.subsampling,
        extra=frame.extra,
        max_bytes=output.max_bytes,
        progressive=output.progressive and "progressive" in codecs.settings(format),
        effort=output.effort or 0 if "effort" in codecs.settings(format) else 0,
    )
    moved = decoded != header.frame or any(
        operators.get(step.name).kind(step) == "geometric" or operators.get(step.name).shrinks
        for step in steps
    )
    return OutputPlan(
        tuple(steps),
        frame,
        format,
        encoding,
        moved,
        dropped,
        header.colours,
        *coloured[1:],
        header.frame,
        decoded,
        recipe.gain_map,
        place,
        output.only_if_smaller,
        (format, decoded, header.pages) == (header.format, header.frame, 1)
        and not steps
        and recipe.metadata != "strip",
    )


def _wants_luma(steps: Sequence[Step]) -> bool:
    """Whether grayscale is the first step, or only resizes, crops and turns precede it. These can be swapped with
    grayscale, except for rounding."""
    for step in steps:
        if step.name == "grayscale":
            return True
        if (
            step.name not in ("resize", "crop", "flip", "rotate")
            or "light" in step.params
            or "at" in step.params
        ):
            return False
    return False


DCT_SCALES = (2, 4, 8)
"""Divisors of the size to which a JPEG's DCT can decode."""


def _scale(steps: Sequence[Step], frame: Frame, decode: Decode, scales: Sequence[int]) -> int:
    """The divisor for the decoder, from the first resize, if only turns and grayscale precede it."""
    for step in steps:
        after = operators.get(step.name).frame_after(step, frame)
        if step.name == "resize":
            if step.params.get("kernel") == "nearest" or "light" in step.params:
                return 1
            room = 2 if decode == "safe" else 1
            for scale in reversed(scales):
                if (
                    -(-frame.width // scale) >= room * after.width
                    and -(-frame.height // scale) >= room * after.height
                ):
                    return scale
            return 1
        if step.name not in ("flip", "rotate", "grayscale", "convert_from"):
            return 1
        frame = after
    return 1


def _peak(decoded: Frame, outputs: Sequence[OutputPlan]) -> int:
    """Peak memory in bytes: the decoded pixels and all outputs, and the most expensive step or encoder."""
    kept = decoded.bytes + sum(output.frame.bytes for output in outputs)
    most = 0
    for output in outputs:
        frames = pairwise(operators.frames(output.steps, decoded))
        steps = (_step_bytes(step, *frame) for step, frame in zip(output.steps, frames, strict=True))
        encoding = ENCODE_COPIES * output.frame.bytes
        encoding += output.frame.pixels * codecs.get(output.format).encoder_bytes
        most = max(most, encoding, *steps)
    return kept + most


ENCODE_COPIES = 5
"""Memory of an encoder, as a multiple of the pixels' size: a reordered copy of the pixels, the encoded bytes in a
buffer that doubles when it grows, and a copy of the bytes."""


def _step_bytes(step: Step, before: Frame, after: Frame) -> int:
    """Memory of a step in bytes: input, output and one copy of it, and floats if the operator needs them."""
    operator = operators.get(step.name)
    most = before.bytes + 2 * after.bytes
    if operator.alpha == "premultiply" and before.without_extra.channels in (2, 4):
        most += 2 * _as_floats(before) + 3 * _as_floats(after)
    if operator.kind(step) == "global":
        most += 2 * _as_floats(before)
    return most


def _as_floats(frame: Frame) -> int:
    return replace(frame, dtype="float32").bytes
