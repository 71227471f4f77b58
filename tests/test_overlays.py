"""What is laid over an image, and the files that steps name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from PIL import Image

from imageloom import Pipeline, process
from imageloom.bench.samples import draw_photo
from imageloom.errors import OperatorRefused, PipelineError, TaskRefused, UsageError
from imageloom.model import Job, Output, Pixels, Recipe, Step
from imageloom.operators.named import digest_of
from imageloom.recipes.files import resolved
from imageloom.recipes.meaning import Meanings
from imageloom.recipes.pipeline import to_text
from imageloom.recipes.recipe import read_recipe
from imageloom.testing.strategies import SAMPLES
from imageloom.worker.guard import Guard

PHOTO = draw_photo(3, 161, 121)
LOGO = SAMPLES / "logo.png"


def close(made: Pixels, other: Pixels, levels: int = 2) -> None:
    """At most so many levels apart, on 99.9% of the values."""
    assert made.shape == other.shape
    assert (np.abs(made.astype(int) - other.astype(int)) <= levels).mean() >= 0.999


def by_pillow(
    image: Pixels, place: tuple[int, int], opacity: float = 1, size: tuple[int, int] = (64, 32)
) -> Pixels:
    """Pillow's alpha_composite of the logo."""
    logo = Image.open(LOGO).convert("RGBA").resize(size, Image.Resampling.BOX)
    logo.putalpha(logo.getchannel("A").point(lambda a: round(a * opacity)))
    under = Image.fromarray(image).convert("RGBA")
    under.alpha_composite(logo, place)
    return np.asarray(under)


class TestOverlay:
    @pytest.mark.parametrize(
        ("options", "place", "opacity"),
        [
            ("", (161 - 64 - 16, 121 - 32 - 16), 1),
            ("gravity=northwest margin=5 opacity=0.5", (5, 5), 0.5),
            ("gravity=center", (48, 44), 1),
            ("gravity=east margin=0", (97, 44), 1),
        ],
    )
    def test_is_pillows_alpha_composite(self, options: str, place: tuple[int, int], opacity: float) -> None:
        opaque = np.dstack((PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)))
        half = np.dstack((PHOTO, np.full(PHOTO.shape[:2], 100, np.uint8)))
        pipeline = Pipeline(f"overlay {LOGO} {options}")
        close(pipeline(PHOTO), by_pillow(PHOTO, place, opacity)[..., :3])
        close(pipeline(opaque), by_pillow(opaque, place, opacity))
        close(pipeline(half), by_pillow(half, place, opacity))
        close(pipeline(PHOTO.astype(np.uint16) * 257) // 257, pipeline(PHOTO), 1)

    def test_a_scale_is_of_the_images_width(self) -> None:
        made = Pipeline(f"overlay {LOGO} scale=19.875776% gravity=northwest margin=0")(PHOTO)
        close(made, by_pillow(PHOTO, (0, 0), size=(32, 16))[..., :3], 4)  # Pillow multiplies in 8 bits

    def test_repeated_it_covers_the_image(self) -> None:
        made = Pipeline(f"overlay {LOGO} repeat=true margin=8 gravity=northwest")(PHOTO)
        expected = PHOTO
        for y in range(8 - 40, 121, 40):
            for x in range(8 - 72, 161, 72):
                cut = np.pad(expected, ((64, 64), (96, 96), (0, 0)))
                expected = by_pillow(cut, (x + 96, y + 64))[64:-64, 96:-96, :3]
        close(made, expected)

    def test_one_that_is_larger_than_the_image_is_cut(self) -> None:
        small = PHOTO[:10, :20].copy()
        logo = np.asarray(Image.open(LOGO).convert("RGBA"))
        made = Pipeline(f"overlay {LOGO} gravity=center opacity=1")(small)
        assert made.shape == small.shape
        opaque = logo[11:21, 22:42, 3] == 255
        np.testing.assert_array_equal(made[opaque], logo[11:21, 22:42, :3][opaque])
        Pipeline(f"overlay {LOGO} margin=100000")(small)

    def test_gray_gets_the_luma(self) -> None:
        gray = Pipeline(f"grayscale | overlay {LOGO}")(PHOTO)
        close(gray, Pipeline(f"overlay {LOGO} | grayscale")(PHOTO), 1)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
    @pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "I;16"])
    def test_pictures_of_all_kinds(self, tmp_path: Path, suffix: str, mode: str) -> None:
        if suffix != "png" and mode in ("P", "RGBA", "I;16"):
            pytest.skip("the format has no such pixels")
        image = Image.open(LOGO).convert("RGBA").convert("L" if mode == "I;16" else mode)
        file = tmp_path / f"a logo.{suffix}"
        if mode == "I;16":
            cv2.imwrite(str(file), np.asarray(image).astype(np.uint16) * 257)
        else:
            image.save(file, quality=100)
        made = Pipeline([Step("overlay", {"file": str(file), "gravity": "northwest", "margin": 0})])(PHOTO)
        under = Image.fromarray(PHOTO).convert("RGBA")
        under.alpha_composite((image if mode == "I;16" else Image.open(file)).convert("RGBA"))
        close(made, np.asarray(under)[..., :3])

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "not a PNG, JPEG or WebP"),
            (b"GIF89a" + bytes(40), "not a PNG, JPEG or WebP"),
            (LOGO.read_bytes()[:100], "damaged|cannot be read"),
            (
                b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\10\2\0\0\0" + bytes(60),
                "over the limit|cannot be read",
            ),
        ],
    )
    def test_what_is_no_picture_is_refused(self, tmp_path: Path, content: bytes, said: str) -> None:
        file = tmp_path / "logo.png"
        file.write_bytes(content)
        with pytest.raises(OperatorRefused, match=said):
            Pipeline(f"overlay {file}")(PHOTO)

    @pytest.mark.parametrize(
        "options",
        ["scale=0%", "scale=101%", "scale=-5%", "scale=1e9%", "opacity=2", "margin=-1", "gravity=up"],
    )
    def test_wrong_options_are_named(self, options: str) -> None:
        with pytest.raises(PipelineError, match=f"overlay: {options.partition('=')[0]}"):
            Pipeline(f"overlay logo.png {options}")

    def test_files_that_cannot_be_read_are_named(self, tmp_path: Path) -> None:
        for file in (tmp_path / "none.png", tmp_path):
            with pytest.raises(OperatorRefused, match=str(file)):
                Pipeline(f"overlay {file}")(PHOTO)


class TestFiles:
    """The files that a recipe names are a part of what it means."""

    def recipe(self, file: Path | str) -> Recipe:
        return Recipe((Output(Pipeline(f"overlay {file}").steps),))

    def test_a_job_fills_in_path_and_digest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copy(LOGO, tmp_path / "logo.png")
        monkeypatch.chdir(tmp_path)
        (step,) = resolved(self.recipe("logo.png")).outputs[0].steps
        assert step.params == {"file": str(tmp_path / "logo.png"), "digest": digest_of(LOGO.read_bytes())}
        assert Pipeline(to_text([step])).steps == (step,)

    def test_a_relative_path_in_a_yaml_file_begins_at_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "recipe.yaml").write_text("- overlay: logo.png")
        (step,) = read_recipe(str(tmp_path / "recipe.yaml")).outputs[0].steps
        assert step.params["file"] == str(tmp_path / "logo.png")

    def test_the_meaning_is_of_the_content_not_of_the_path(self, tmp_path: Path) -> None:
        texts = set[str]()
        for name, content in (("a", LOGO.read_bytes()), ("b", LOGO.read_bytes()), ("c", b"other")):
            (tmp_path / name).write_bytes(content)
            texts.add(Meanings(resolved(self.recipe(tmp_path / name)), "{stem}").of("photo.jpg"))
        assert len(texts) == 2

    def test_another_content_than_planned_is_refused(self, tmp_path: Path) -> None:
        shutil.copy(LOGO, file := tmp_path / "logo.png")
        pipeline = Pipeline(resolved(self.recipe(file)).outputs[0].steps)
        file.write_bytes(LOGO.read_bytes() + b"edited")
        with pytest.raises(UsageError, match="has not the digest"):
            resolved(Recipe((Output(pipeline.steps),)))
        from imageloom.operators import named

        named._kept.clear()
        with pytest.raises(OperatorRefused, match="differs from the file at the start of the job"):
            pipeline(PHOTO)

    def test_a_missing_file_ends_the_run_before_the_first_item(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"overlay: cannot read .*none.png: No such file"):
            resolved(self.recipe(tmp_path / "none.png"))

    def test_a_worker_reads_no_file_outside_its_roots(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        shutil.copy(LOGO, inside := tmp_path / "in" / "logo.png")
        shutil.copy(LOGO, outside := tmp_path / "logo.png")
        (tmp_path / "in" / "link.png").symlink_to(outside)
        guard = Guard((str(tmp_path / "in"),))
        guard.check_files(self.recipe(inside))
        for path in (outside, tmp_path / "in" / "link.png", tmp_path / "in" / ".." / "logo.png", "logo.png"):
            with pytest.raises(TaskRefused):
                guard.check_files(self.recipe(path))
        with pytest.raises(TaskRefused, match="without a digest"):
            guard.check_files(self.recipe(inside), digested=True)
        job = Job(str(tmp_path / "in"), str(tmp_path / "out"), self.recipe(outside))
        Guard.of(job).check_files(job.recipe)

    @pytest.mark.parametrize("engine", ["serial", "threads", "processes"])
    @pytest.mark.parametrize("sandbox", ["off", "auto"])
    def test_each_engine_makes_the_same_bytes_again_when_the_file_is_edited(
        self, tmp_path: Path, engine: str, sandbox: Literal["off", "auto"]
    ) -> None:
        (tmp_path / "in").mkdir()
        for number in range(3):
            Image.fromarray(draw_photo(number, 90, 70)).save(tmp_path / "in" / f"{number}.png")
        shutil.copy(LOGO, file := tmp_path / "logo.png")

        def run() -> list[Pixels]:
            process(
                f"overlay {file}", tmp_path / "in", tmp_path / "out", engine=engine, jobs=2, sandbox=sandbox
            )
            return [np.asarray(Image.open(tmp_path / "out" / f"{number}.png")) for number in range(3)]

        for number, made in enumerate(run()):
            expected = Pipeline(f"overlay {file}")(draw_photo(number, 90, 70))
            np.testing.assert_array_equal(made, expected)
        Image.new("RGBA", (20, 20), "red").save(file)
        for made in run():
            assert (made[-30:-20, -30:-20] == (255, 0, 0)).all()
