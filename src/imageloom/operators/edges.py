"""Edges: gradients, second derivatives and Canny's edge detector."""

from __future__ import annotations

from math import floor
from typing import Annotated, Literal

import cv2
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from imageloom.model import Frame, Pixels, Step, Value
from imageloom.operators.channels import colour
from imageloom.operators.hysteresis import WEAK
from imageloom.operators.registry import operator
from imageloom.operators.values import half, in_bands, in_range, in_vectors

Gradient = Annotated[float, Meta(ge=0, le=100_000)]
Scale = Annotated[float, Meta(gt=0, le=1000)]
Axis = Literal["both", "x", "y"]


def _mask(frame: Frame, **_: object) -> Frame:
    return replace(frame, channels=1)


def _by_hysteresis(frame: Frame, low: float, high: float, aperture: int, l2: bool) -> tuple[Step, ...]:
    params: dict[str, Value] = {"low": low, "high": high, "aperture": aperture, "l2": l2}
    return Step("edge_candidates", params), Step("hysteresis")


def _in_order(low: float, high: float, **_: object) -> str | None:
    return "low must not be above high" if low > high else None


@operator(
    "local",
    halo=half,
    alpha="drop",
    ranged=True,
    examples=("sobel", "sobel 5 scale=0.1", "sobel axis=x"),
)
def sobel(image: Pixels, *, kernel: Literal[3, 5, 7] = 3, axis: Axis = "both", scale: Scale = 1.0) -> Pixels:
    """The magnitude of the gradient of each channel, by Sobel's kernels, times the scale.

    With axis=x or axis=y: the absolute value of the derivative along that axis. The kernels are OpenCV's, without
    normalization; the result is clipped to the range of the dtype. The image is mirrored at its edges. Alpha is
    removed.
    """
    return _steepness(image, kernel, axis, scale)


@operator(
    "local",
    halo=lambda **_: 1,
    alpha="drop",
    ranged=True,
    examples=("scharr", "scharr axis=y scale=0.25"),
)
def scharr(image: Pixels, *, axis: Axis = "both", scale: Scale = 1.0) -> Pixels:
    """The magnitude of the gradient of each channel, by Scharr's 3 x 3 kernels, times the scale.

    Like `sobel`, but equally accurate in all directions. H. Scharr, "Optimale Operatoren in der Digitalen
    Bildverarbeitung", dissertation, Heidelberg 2000.
    """
    return _steepness(image, cv2.FILTER_SCHARR, axis, scale)


def _steepness(image: Pixels, kernel: int, axis: Axis, scale: float) -> Pixels:
    """The magnitude of the gradient, or of one component, computed in the same order for every pixel."""

    def along(dx: int, dy: int) -> Pixels:
        def derivative(wider: Pixels) -> Pixels:
            return cv2.Sobel(wider, cv2.CV_32F, dx, dy, ksize=kernel)

        return in_vectors(derivative, image, max(1, kernel // 2))

    def length(*parts: Pixels) -> Pixels:
        steep = np.abs(parts[0]) if len(parts) == 1 else np.sqrt(parts[0] * parts[0] + parts[1] * parts[1])
        return in_range(steep * np.float32(scale), image.dtype)

    parts = {"both": [(1, 0), (0, 1)], "x": [(1, 0)], "y": [(0, 1)]}[axis]
    return in_bands(length, *(along(dx, dy) for dx, dy in parts))


@operator(
    "local",
    halo=lambda kernel, **_: max(1, kernel // 2),
    alpha="drop",
    ranged=True,
    examples=("laplacian", "laplacian 3 scale=0.5"),
)
def laplacian(image: Pixels, *, kernel: Literal[1, 3, 5, 7] = 1, scale: Scale = 1.0) -> Pixels:
    """The absolute value of the Laplacian (sum of second derivatives) of each channel, times the scale.

    The same as OpenCV's Laplacian. kernel=1 is the sum of the four neighbours minus four times the pixel. The
    result is clipped to the range of the dtype. The image is mirrored at its edges. Alpha is removed.
    """
    bent = in_vectors(
        lambda wider: cv2.Laplacian(wider, cv2.CV_32F, ksize=kernel), image, max(1, kernel // 2)
    )
    return in_bands(lambda band: in_range(np.abs(band) * np.float32(scale), image.dtype), bent)


@operator(
    "global",
    dtypes=("uint8",),
    frame=_mask,
    alpha="drop",
    check=_in_order,
    tiled_as=_by_hysteresis,
    extra="refuse",
    examples=("canny 100 200", "canny low=100 high=200 aperture=5 l2=true"),
)
def canny(
    image: Pixels,
    *,
    low: Gradient = 100.0,
    high: Gradient = 200.0,
    aperture: Literal[3, 5, 7] = 3,
    l2: bool = False,
) -> Pixels:
    """Detect edges: thin white lines on black, by hysteresis between the thresholds low and high.

    The thresholds are compared with the gradient: the sum of the absolute Sobel derivatives, or with l2=true their
    Euclidean norm. In a colour image, the channel with the largest gradient counts. aperture is the width of the
    Sobel kernel. Alpha is ignored. The same as OpenCV's Canny (J. Canny, "A computational approach to edge
    detection", IEEE Trans. PAMI 8, 1986).
    """
    if l2 and aperture == 5:  # IPP's sums of squares, which OpenCV would take, lose bits to 32-bit floats
        low, high = min(low, _STEEPEST), min(high, _STEEPEST)
        return cv2.Canny(*_derivatives(image, aperture), low, high, L2gradient=True)
    return cv2.Canny(image, low, high, apertureSize=aperture, L2gradient=l2)


_STEEPEST = 32767.0
"""No derivative reaches this value. OpenCV squares larger thresholds, which overflows 32 bits."""


def _derivatives(image: Pixels, aperture: int, scale: float = 1.0) -> tuple[Pixels, Pixels]:
    """The derivatives that OpenCV's Canny computes."""
    dx, dy = (
        cv2.Sobel(image, cv2.CV_16S, x, y, ksize=aperture, scale=scale, borderType=cv2.BORDER_REPLICATE)
        for x, y in ((1, 0), (0, 1))
    )
    return dx, dy


@operator(
    "local",
    dtypes=("uint8",),
    halo=lambda aperture, **_: aperture // 2 + 1,
    frame=_mask,
    alpha="drop",
    examples=(),
    hidden=True,
)
def edge_candidates(
    image: Pixels, *, low: float, high: float, aperture: Literal[3, 5, 7], l2: bool
) -> Pixels:
    """The candidates for `canny`'s edges: ridges of the gradient above low (WEAK) and above high (STRONG).

    With one threshold, OpenCV's Canny returns every ridge above it. The derivatives are those of OpenCV's Canny.
    """
    scale = 1 / 16 if aperture == 7 else 1.0  # the larger kernel's derivatives would not fit 16 bits
    dx, dy = _derivatives(image, aperture, scale)
    low, high = (min(threshold * scale, _STEEPEST) for threshold in (low, high))
    weak = cv2.Canny(dx, dy, low, low, L2gradient=l2)
    if l2 or dx.ndim > 2:
        strong = cv2.Canny(dx, dy, high, high, L2gradient=l2)
    else:  # the ridges are the same ones: only their heights are to be looked at again
        strong = -(np.abs(dx) + np.abs(dy) > floor(high)).view(np.uint8)
    classes: Pixels = np.bitwise_and(weak, np.bitwise_or(strong, np.uint8(WEAK)))  # OpenCV's masks are STRONG
    return classes


def _with_classes(frame: Frame, **_: object) -> Frame:
    return replace(frame, channels=frame.channels + 1)


def _by_classes(frame: Frame, low: float, high: float) -> tuple[Step, ...]:
    return Step("edge_classes", {"low": low, "high": high}), Step("edge_colours")


@operator(
    "local",
    dtypes=("uint8",),
    halo=lambda **_: 3,
    frame=_with_classes,
    alpha="together",
    examples=(),
    hidden=True,
)
def edge_classes(image: Pixels, *, low: float, high: float) -> Pixels:
    """The image with one more channel in front: the candidates for `edge_mask`'s edges."""
    blurred = cv2.blur(colour(image), (3, 3))
    return np.dstack((edge_candidates(blurred, low=low, high=high, aperture=3, l2=False), image))


@operator(
    "global",
    dtypes=("uint8",),
    check=_in_order,
    tiled_as=_by_classes,
    extra="refuse",
    examples=("edge_mask", "edge_mask 20 60"),
)
def edge_mask(image: Pixels, *, low: Gradient = 5.0, high: Gradient = 15.0) -> Pixels:
    """Keep the colours at edges and make all other pixels black.

    The edges are those of `canny low high` in the image after `box_blur 3`. Alpha is ignored and not changed.
    """
    edges = cv2.Canny(cv2.blur(image, (3, 3)), low, high)
    return cv2.bitwise_and(image, image, mask=edges)
