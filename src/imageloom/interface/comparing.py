"""Images side by side in a notebook: before and after."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imageloom.codecs import interop
from imageloom.errors import UsageError
from imageloom.interface.image import Image
from imageloom.model import Step
from imageloom.recipes.pipeline import Pipeline

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as PillowImage


class Comparison:
    """Images with captions, which a notebook shows side by side. `imageloom.compare` makes it."""

    def __init__(self, images: Sequence[tuple[str, Image]]) -> None:
        self.images = tuple(images)
        """Caption and image, from left to right."""

    def __repr__(self) -> str:
        return f"<Comparison: {', '.join(caption for caption, _ in self.images)}>"

    def _repr_html_(self) -> str:
        from html import escape

        figures = "".join(
            f'<figure style="margin:0;max-width:24rem"><img alt="{escape(caption)}" style="max-width:100%" '
            f'src="data:image/png;base64,{base64.b64encode(image._repr_png_()).decode()}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
            for caption, image in self.images
        )
        return f'<div style="display:flex;flex-wrap:wrap;gap:1rem">{figures}</div>'


def compare(image: Image | PillowImage | NDArray[Any], *pipelines: Pipeline | Step | str) -> Comparison:
    """An image before and after pipelines, side by side in a notebook.

    Args:
        image: an `Image`, an image of Pillow, or an array.
        pipelines: each is applied to the image.

    Raises:
        UsageError: it is no image, or no pipeline.
        OperatorRefused: a step does not accept its input.
    """
    if interop.is_pil(image):
        image = Image.from_pil(image)
    elif not isinstance(image, Image):
        image = Image.from_array(interop.array_of(image))
    if not pipelines:
        raise UsageError("pipelines: give at least one, such as 'gaussian_blur 2'")
    after = [(str(pipeline), image.apply(pipeline)) for pipeline in pipelines]
    return Comparison([("before", image), *after])
