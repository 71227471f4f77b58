"""Draws a gallery of the operators: a photo, and what each operator makes of it.

    python -m imageloom.testing.gallery PHOTO docs/operators

writes one WebP picture for each operator, and a page with all of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from imageloom import codecs, operators
from imageloom.model import Encoding, Pixels, Step
from imageloom.operators import Operator
from imageloom.recipes.pipeline import Pipeline, to_text
from imageloom.testing.strategies import sampled

HEIGHT = 200
"""Of each picture, in pixels."""
_GAP = 8
SHOWN = {
    "adaptive_threshold": "grayscale | adaptive_threshold 31 offset=5",
    "autocontrast": "contrast 0.4 | autocontrast",
    "bilateral": "bilateral 15 60 6",
    "border": "border 5% color=#202020",
    "brightness": "brightness 60",
    "canny": "canny 80 160",
    "clahe": "clahe 4",
    "close": "close 9",
    "contrast": "contrast 1.8",
    "crop": "crop 128x128 at=attention",
    "denoise": "denoise 20",
    "dilate": "dilate 9",
    "erode": "erode 9",
    "gamma": "gamma 2.2",
    "gaussian_blur": "gaussian_blur 5 light=linear",
    "hue": "hue 120",
    "laplacian": "laplacian 3 scale=2",
    "lut": "lut warm.cube",
    "median_blur": "median_blur 11",
    "motion_blur": "motion_blur 25 angle=30",
    "open": "open 9",
    "overlay": "overlay logo.png scale=30% opacity=0.8",
    "pad": "pad 24 fill=mirror",
    "pixelate": "pixelate 16",
    "posterize": "posterize 4",
    "resize": "resize 200x200 fit=pad background=#ffffff kernel=lanczos3",
    "rotate": "rotate 90",
    "saturation": "saturation 2",
    "scharr": "scharr scale=0.25",
    "sharpen": "sharpen 2 amount=3",
    "text": "text 'Hello, שלום, مرحبا' size=9% gravity=north",
    "threshold": "grayscale | threshold otsu",
    "trim": "border 30 color=#88aacc | trim",
    "white_balance": "lut warm.cube | white_balance",
}
"""The steps that show an operator; others are shown by their first example."""


def pictures(photo: Pixels) -> dict[str, tuple[str, Pixels]]:
    """For each of imageloom's own operators: the steps as text, and the photo beside the result."""
    found = {}
    own = (one for one in operators.operators() if one.function.__module__.startswith("imageloom.operators."))
    for one in sorted(own, key=lambda one: one.name):
        steps = Pipeline(SHOWN.get(one.name, one.examples[0])).steps
        before = Pipeline(map(sampled, steps[:-1]))(photo) if _prepares(one, steps) else photo
        made = Pipeline(map(sampled, steps))(photo)
        found[one.name] = to_text(steps), _beside(before, made)
    return found


def _prepares(one: Operator, steps: tuple[Step, ...]) -> bool:
    """Whether the steps before an operator make the picture that it changes."""
    return len(steps) > 1 and steps[0].name != "grayscale" and one.name == steps[-1].name


def _beside(*images: Pixels) -> Pixels:
    """Pictures side by side on white, in the same height at most."""
    shown = []
    for image in images:
        colour = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image[..., :3]
        height = min(HEIGHT, len(colour))
        if height < len(colour):
            width = round(colour.shape[1] * height / len(colour))
            colour = cv2.resize(colour, (width, height), interpolation=cv2.INTER_AREA)
        canvas = np.full((HEIGHT, colour.shape[1] + _GAP, 3), 255, np.uint8)
        top = (HEIGHT - height) // 2
        canvas[top : top + height, : colour.shape[1]] = colour
        shown.append(canvas)
    return np.ascontiguousarray(np.concatenate(shown, axis=1)[:, :-_GAP])


def draw(photo: Path, folder: Path) -> None:
    """Write the pictures and the page."""
    data = photo.read_bytes()
    pixels = codecs.decode(data, codecs.header_of(data))
    small = Pipeline(f"resize x{HEIGHT}")(pixels[..., :3])
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "# The operators",
        "",
        "Each picture has the image before and after. `imageloom ops NAME` explains an operator.",
        f"Made by `python -m imageloom.testing.gallery PHOTO {folder.name}`.",
    ]
    for name, (text, picture) in pictures(np.ascontiguousarray(small)).items():
        encoded = codecs.encode("webp", picture, Encoding(75))
        assert isinstance(encoded, bytes)
        (folder / f"{name}.webp").write_bytes(encoded)
        summary = operators.get(name).summary
        lines += ["", f"## {name}", "", summary, "", f"`{text}`", "", f"![{name}]({name}.webp)"]
    (folder / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
