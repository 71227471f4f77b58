"""The tile law: what is done tile by tile equals what is done whole, bit for bit, for every operator."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from imageloom import operators
from imageloom.bench.samples import draw_photo
from imageloom.model import Box, Frame, Pixels, Step, Value
from imageloom.operators import Operator, resize
from imageloom.operators.hysteresis import STRONG
from imageloom.operators.resample import Axis, reduce, resample
from imageloom.recipes.pipeline import Pipeline, to_text
from imageloom.testing.strategies import frames, images, steps, takes
from imageloom.tiling import tiles


def law(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


SIZES = (1, 2, 7, 16, 31, 32, 64, 97, 256)
"""Edges of tiles, in pixels."""

OPERATORS = [o for o in operators.operators() if o.function.__module__.startswith("imageloom.")]
"""All but those that other tests register."""

every_operator = pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.name)


@pytest.fixture(params=["small", "large"], ids=["small", "large"])
def resize_as(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every image counts as large for a resize, or none does."""
    if request.param == "large":
        monkeypatch.setattr(resize, "LARGE", 0)
    return str(request.param)


def equal_in_tiles(image: Pixels, pipeline: list[Step], size: int) -> None:
    whole = image
    for at, step in enumerate(pipeline):
        if not operators.is_known(pipeline[:at]):
            assume(takes(operators.get(step.name), step, Frame.of(whole)))
        whole = operators.apply(step, whole)
    tiled = tiles.run_tiled(image, pipeline, size)
    assert tiled.dtype == whole.dtype
    np.testing.assert_array_equal(tiled, whole, err_msg=to_text(pipeline))


@st.composite
def cases(draw: st.DrawFn, first: Operator | None = None, length: int = 1) -> tuple[Pixels, list[Step], int]:
    """An image, a pipeline that it can go through, and an edge of tiles."""
    names = [first] if first else []
    known = st.sampled_from(OPERATORS)
    chosen = [*names, *(draw(known) for _ in range(length - len(names)))]
    pipeline = [draw(steps(operator)) for operator in chosen]
    frame = now = draw(frames(chosen[0], pipeline[0]))
    for operator, step in zip(chosen, pipeline, strict=True):
        assume(takes(operator, step, now) and operator.frame_after(step, now).pixels < 1_000_000)
        now = operator.frame_after(step, now)
    size = draw(st.sampled_from(SIZES))
    assume(max(frame.pixels, now.pixels) < 2000 * size * size)
    return draw(images(frame)), pipeline, size


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in workers: with one thread alone OpenCV takes other code, IPP's Canny for one."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


class TestTheLaw:
    @every_operator
    @law(12)
    @given(data=st.data())
    def test_of_an_operator(self, operator: Operator, data: st.DataObject) -> None:
        equal_in_tiles(*data.draw(cases(operator)))

    @law(100)
    @given(data=st.data())
    def test_of_a_pipeline(self, data: st.DataObject) -> None:
        equal_in_tiles(*data.draw(cases(length=data.draw(st.integers(2, 4)))))

    @pytest.mark.long
    @pytest.mark.timeout(1800)
    @every_operator
    @law(200)
    @given(data=st.data())
    def test_of_an_operator_long(self, resize_as: str, operator: Operator, data: st.DataObject) -> None:
        equal_in_tiles(*data.draw(cases(operator)))

    @pytest.mark.long
    @pytest.mark.timeout(1800)
    @law(3000)
    @given(data=st.data())
    def test_of_a_pipeline_long(self, resize_as: str, data: st.DataObject) -> None:
        equal_in_tiles(*data.draw(cases(length=data.draw(st.integers(2, 4)))))

    def test_what_is_measured_in_places_after_a_step_of_the_whole(self) -> None:
        """Found by the long run: the whole was measured in one place, and looked up in those of the tiles."""
        equal_in_tiles(draw_photo(3, 90, 60), list(Pipeline("resize 50% | clahe")), 16)

    @pytest.mark.parametrize("size", [1, 5, 64])
    @pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 2)])
    def test_where_the_halo_is_larger_than_the_image(self, shape: tuple[int, int], size: int) -> None:
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        equal_in_tiles(image, list(Pipeline("gaussian_blur 9 | dilate 31 | canny 10 20")), size)


class TestPhases:
    frame = Frame(1000, 800, 3)

    def test_one_pass_takes_point_local_and_geometric_steps(self) -> None:
        (phase,) = tiles.phases(
            Pipeline("grayscale | gaussian_blur 2 | flip | median_blur 5").steps, self.frame
        )
        tile = tiles.tile(phase, Box(320, 320, 384, 384))
        # median_blur reads 2 around, aligned to 32: 288 to 416; flipped 584 to 712; the blur 6 around: 576 to 736.
        assert tile.read == Box(576, 256, 736, 448)
        assert tile.write == Box(320, 320, 384, 384)

    def test_read_boxes_end_at_the_image(self) -> None:
        (phase,) = tiles.phases(Pipeline("gaussian_blur 20").steps, self.frame)
        assert tiles.tile(phase, Box(960, 0, 1000, 40)).read == Box(896, 0, 1000, 128)

    def test_a_measure_ends_a_phase(self) -> None:
        first, second = tiles.phases(Pipeline("invert | equalize | gaussian_blur 2").steps, self.frame)
        assert [step.name for step in first.steps] == ["invert"]
        assert first.measured == second.steps[0] == Step("equalize")
        assert [step.name for step in second.steps] == ["equalize", "gaussian_blur"]

    def test_a_measure_that_comes_first_makes_no_pixels(self) -> None:
        first, _ = tiles.phases(Pipeline("equalize").steps, self.frame)
        assert first.steps == ()
        assert first.measured == Step("equalize")

    def test_after_a_hysteresis_only_point_steps_keep_to_its_tiles(self) -> None:
        found = tiles.phases(Pipeline("grayscale | canny | invert | dilate 3 | flip").steps, self.frame)
        assert [[step.name for step in phase.steps] for phase in found] == [
            ["grayscale", "edge_candidates"],
            ["hysteresis", "invert"],
            ["dilate", "flip"],
        ]

    def test_what_takes_a_whole_image_is_named_and_a_phase_of_one_tile(self) -> None:
        pipeline = Pipeline("invert | clahe | gaussian_blur 2").steps
        deep = Frame(1000, 800, 3, "uint16")
        _, alone, _ = tiles.phases(pipeline, deep)
        assert alone.whole == tiles.why_not(pipeline, deep)
        assert str(alone.whole).startswith("clahe has tables of 65,536 levels")
        assert tiles.boxes(alone, 64) == (Box(0, 0, 1000, 800),)
        assert tiles.why_not(Pipeline("invert | canny | equalize | clahe").steps, self.frame) is None

    def test_only_a_large_image_is_resized_in_tiles(self) -> None:
        pipeline = Pipeline("resize 50%").steps
        assert "resize resizes images of up to" in str(tiles.why_not(pipeline, Frame(4000, 3000, 3)))
        assert tiles.why_not(pipeline, Frame(20_000, 17_000, 3)) is None
        assert tiles.why_not(Pipeline("resize 900%").steps, Frame(4000, 3000, 3)) is None

    @given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 400))
    def test_boxes_cover_every_pixel_once(self, width: int, height: int, size: int) -> None:
        assume(width * height <= 2000 * size * size)
        (phase,) = tiles.phases(Pipeline("invert").steps, Frame(width, height, 1))
        seen = np.zeros((height, width), int)
        for box in tiles.boxes(phase, size):
            seen[box.slices(Box(0, 0, width, height))] += 1
        assert (seen == 1).all()


class TestHysteresis:
    def test_an_edge_may_wind_through_all_tiles(self) -> None:
        """A spiral with one strong pixel at its inner end, and the same without: all of it stays, or nothing."""
        spiral, (x, y), (dx, dy) = np.zeros((97, 97), np.uint8), (0, 0), (1, 0)
        for length in (v for n in range(96, 0, -4) for v in (n, n, n - 2, n - 2)):
            cv2.line(spiral, (x, y), (x + dx * length, y + dy * length), 1)
            x, y, dx, dy = x + dx * length, y + dy * length, -dy, dx
        step = Step("hysteresis")
        for size in (1, 7, 16, 50):
            assert not tiles.run_tiled(spiral, [step], size).any()
        spiral[y, x] = STRONG
        for size in (1, 7, 16, 50):
            made = tiles.run_tiled(spiral, [step], size)
            np.testing.assert_array_equal(made, np.where(spiral > 0, 255, 0))

    @pytest.mark.parametrize("l2", [False, True])
    @pytest.mark.parametrize("high", [0.0, 32767.0, 46341.0, 100_000.0])
    def test_thresholds_at_their_bounds(self, high: float, l2: bool) -> None:
        step = Step("canny", {"low": 0.0, "high": high, "l2": l2})
        for width in (3, 5, 9, 17, 60):
            equal_in_tiles(draw_photo(7, width, 50), [Step("grayscale"), step], 16)

    def test_a_tie_between_gradients_that_floats_do_not_hold(self) -> None:
        """Found by the long run: with one thread, OpenCV's Canny of the whole missed the pixel at 2, 1."""
        rows = ("00111", "00011", "00101", "11000")
        image = np.array([[255 * int(c) for c in row] for row in rows], np.uint8)
        step = Step("canny", {"low": 300.0, "high": 600.0, "aperture": 5, "l2": True})
        equal_in_tiles(image, [step], 16)
        assert operators.apply(step, image)[1, 2] == 255

    @law(60)
    @given(
        seed=st.integers(0, 2**32 - 1),
        width=st.integers(1, 90),
        height=st.integers(1, 90),
        channels=st.sampled_from((1, 3)),
        aperture=st.sampled_from((3, 5, 7)),
        l2=st.booleans(),
        size=st.sampled_from((3, 8, 32, 61)),
    )
    def test_equals_canny_of_the_whole(
        self, seed: int, width: int, height: int, channels: int, aperture: int, l2: bool, size: int
    ) -> None:
        random = np.random.default_rng(seed)
        shape = (height, width, 3) if channels == 3 else (height, width)
        image = cv2.GaussianBlur(random.integers(0, 256, shape, np.uint8), (0, 0), 1.2)
        low = float(random.uniform(0, 100 if aperture == 3 else 1500))
        params: dict[str, Value] = {"low": low, "high": low * 2.5, "aperture": aperture, "l2": l2}
        made = tiles.run_tiled(image, [Step("canny", params)], size)
        np.testing.assert_array_equal(made, operators.apply(Step("canny", params), image))
        if not (l2 and aperture == 5):  # there OpenCV's is not exact
            whole = cv2.Canny(image, low, low * 2.5, apertureSize=aperture, L2gradient=l2)
            np.testing.assert_array_equal(made, whole)


class TestRegions:
    """CLAHE against OpenCV's of the whole image."""

    @law(80)
    @given(
        seed=st.integers(0, 2**32 - 1),
        width=st.integers(1, 300),
        height=st.integers(1, 300),
        channels=st.integers(1, 4),
        clip=st.sampled_from((0.01, 1.0, 2.0, 3.7, 40.0, 100.0)),
        regions=st.sampled_from((1, 2, 3, 8, 16, 64)),
        size=st.sampled_from((8, 31, 64, 200)),
    )
    def test_equals_clahe_of_the_whole(
        self, seed: int, width: int, height: int, channels: int, clip: float, regions: int, size: int
    ) -> None:
        assume(width * height < 1000 * size * size)
        random = np.random.default_rng(seed)
        shape = (height, width, channels)[: 2 if channels == 1 else 3]
        image = cv2.GaussianBlur(random.integers(0, 256, shape, np.uint8), (0, 0), random.uniform(0.1, 5))
        image = image.reshape(shape)
        step = Step("clahe", {"clip": clip, "tiles": regions})
        assert tiles.why_not([step], Frame.of(image)) is None
        equal_in_tiles(image, [step], size)
        if channels == 1:
            whole = cv2.createCLAHE(clip, (regions, regions)).apply(image)
            np.testing.assert_array_equal(tiles.run_tiled(image, [step], size), whole)

    def test_beyond_floats_of_whole_numbers(self) -> None:
        """Counts of more than 2**24 pixels are rounded where they become floats."""
        image = cv2.resize(draw_photo(7, 500, 400), (6001, 4203))[:, :, 0]
        equal_in_tiles(image, [Step("clahe", {"tiles": 1, "clip": 5.0})], 2000)


class TestEdgeMask:
    @law(80)
    @given(
        seed=st.integers(0, 2**32 - 1),
        width=st.integers(1, 120),
        height=st.integers(1, 120),
        channels=st.integers(1, 4),
        low=st.floats(0, 100),
        size=st.sampled_from((4, 31, 64)),
    )
    def test_equals_the_mask_of_the_whole(
        self, seed: int, width: int, height: int, channels: int, low: float, size: int
    ) -> None:
        random = np.random.default_rng(seed)
        shape = (height, width, channels)[: 2 if channels == 1 else 3]
        image = cv2.GaussianBlur(random.integers(0, 256, shape, np.uint8), (0, 0), 1.5).reshape(shape)
        step = Step("edge_mask", {"low": low, "high": low * 2.5})
        assert tiles.why_not([step], Frame.of(image)) is None
        made = tiles.run_tiled(image, [step], size)
        colours = (
            image if channels in (1, 3) else np.ascontiguousarray(image[..., :-1]).reshape(height, width, -1)
        )
        edges = cv2.Canny(cv2.blur(colours, (3, 3)), low, low * 2.5)
        expected = image.copy()
        if channels in (1, 3):
            expected[edges == 0] = 0
        else:
            expected[edges == 0, :-1] = 0
        np.testing.assert_array_equal(made, expected)


KERNELS = ("auto", "nearest", "linear", "cubic", "lanczos", "area")


class TestResize:
    @law(200)
    @given(data=st.data())
    def test_tiles_of_a_large_image(self, data: st.DataObject) -> None:
        edge = st.integers(1, 200)
        width, height, size = data.draw(edge), data.draw(edge), data.draw(st.sampled_from((5, 32, 61)))
        frame = Frame(
            width, height, data.draw(st.integers(1, 4)), data.draw(st.sampled_from(operators.DTYPES))
        )
        fit = data.draw(st.sampled_from(("exact", "inside", "cover")))
        step = Step(
            "resize",
            {
                "size": f"{data.draw(edge)}x{data.draw(edge)}",
                "fit": fit,
                "kernel": data.draw(st.sampled_from(KERNELS)),
            },
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resize, "LARGE", 0)
            assert tiles.why_not([step], frame) is None
            equal_in_tiles(data.draw(images(frame)), [step], size)

    @pytest.mark.parametrize("factors", [(2, 2), (2, 1), (1, 2), (3, 3), (4, 2), (5, 7)])
    @pytest.mark.parametrize("dtype", operators.DTYPES)
    @pytest.mark.parametrize("channels", [1, 3])
    def test_blocks_are_averaged_the_same_wherever_they_lie(
        self, factors: tuple[int, int], dtype: str, channels: int
    ) -> None:
        x, y = factors
        image: Pixels = np.random.default_rng(0).random((9 * y, 41 * x, channels), np.float32)
        image = np.squeeze(image if dtype == "float32" else (image * 255).astype(dtype))
        whole = reduce(image, x, y)
        for left in range(1, 12):
            part = reduce(image[4 * y :, left * x : -left * x], x, y)
            np.testing.assert_array_equal(part, whole[4:, left:-left])

    def test_strips_of_a_large_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resize, "LARGE", 0)
        image = draw_photo(5, 50, 1500)
        made = operators.apply(Step("resize", {"size": "33x1301"}), image)
        np.testing.assert_array_equal(made, _resampled(image, (33, 1301), "area"))

    @pytest.mark.parametrize("target", [(1111, 901), (512, 384), (455, 341), (601, 1000), (100, 99)])
    def test_averages_the_area_as_opencv_does(self, target: tuple[int, int]) -> None:
        image = draw_photo(3, 1601, 1201)
        made = _resampled(image, target, "area")
        opencv = cv2.resize(image, target, interpolation=cv2.INTER_AREA)
        assert cv2.PSNR(made, opencv) > 45
        assert abs(float(made.mean()) - float(opencv.mean())) < 0.1

    @pytest.mark.parametrize("target", [(1600, 1200), (800, 600), (400, 300), (200, 100), (1600, 400)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_whole_factors_are_those_of_opencv(self, target: tuple[int, int], dtype: type) -> None:
        image: Pixels = draw_photo(3, 1600, 1200).astype(dtype)
        opencv = cv2.resize(image, target, interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(_resampled(image, target, "area"), opencv)

    @pytest.mark.parametrize("kernel", ["linear", "cubic", "lanczos", "area"])
    def test_an_even_gray_stays_and_a_ramp_stays_straight(self, kernel: str) -> None:
        gray = np.full((50, 70), 0.3, np.float32)
        for target in ((333, 61), (21, 13), (70, 49), (3, 120)):
            np.testing.assert_allclose(_resampled(gray, target, kernel), 0.3, rtol=1e-6)
        ramp = np.tile(np.arange(301, dtype=np.float32) + 0.5, (3, 1))
        made = _resampled(ramp, (97, 3), kernel)[1]
        expected = (np.arange(97)[3:-3] + 0.5) * 301 / 97
        np.testing.assert_allclose(made[3:-3], expected, atol=0.16)  # OpenCV's cubic kernel bends it a little

    @pytest.mark.parametrize(
        ("kernel", "flag"),
        [("linear", cv2.INTER_LINEAR), ("cubic", cv2.INTER_CUBIC), ("lanczos", cv2.INTER_LANCZOS4)],
    )
    def test_interpolates_as_opencv_does(self, kernel: str, flag: int) -> None:
        image = draw_photo(3, 200, 150).astype(np.float32)
        opencv = cv2.resize(image, (391, 222), interpolation=flag)
        assert np.abs(_resampled(image, (391, 222), kernel) - opencv).max() < (
            6 if kernel == "lanczos" else 0.1
        )


def _resampled(image: Pixels, target: tuple[int, int], kernel: str) -> Pixels:
    x, y = (
        Axis(length, to, kernel)  # type: ignore[arg-type]
        for length, to in zip(image.shape[1::-1], target, strict=True)
    )
    return resample(image, x, y, Box(0, 0, *target))
