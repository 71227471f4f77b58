"""Plans: the hints to the codec, the limits, and the bound on memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageloom import codecs
from imageloom.api import process
from imageloom.bench.samples import draw_photo
from imageloom.errors import LimitExceeded, OperatorRefused, UnsupportedImage
from imageloom.model import Decode, Encoding, Format, Frame, Header, Limits, Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.plan import Plan, check_limits, explain, make_plan
from imageloom.records.events import Event, Failed

PHOTO = Header("jpeg", Frame(4000, 3000, 3), scalable=True)


def recipe(*texts: str, decode: Decode = "safe", format: Format | None = None) -> Recipe:
    return Recipe(tuple(Output(Pipeline(text).steps, format=format) for text in texts), decode)


def plan(text: str, header: Header = PHOTO, decode: Decode = "safe", format: Format | None = None) -> Plan:
    return make_plan(header, recipe(text, decode=decode, format=format))


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(1, 8),
    st.sampled_from(["safe", "fast"]),
    st.sampled_from(["exact", "inside", "cover"]),
)
def test_no_decode_goes_below_its_room_and_none_could_go_further(
    width: int, height: int, new_width: int, new_height: int, orientation: int, decode: Decode, fit: str
) -> None:
    header = Header("jpeg", Frame(width, height, 3), orientation=orientation, scalable=True)
    made = plan(f"resize {new_width}x{new_height} fit={fit}", header, decode)
    if orientation > 4:
        width, height = height, width
    share = {"inside": min, "cover": max}.get(fit)
    target_width, target_height = new_width, new_height
    if share:
        factor = share(new_width / width, new_height / height)
        target_width, target_height = max(1, round(width * factor)), max(1, round(height * factor))
    room = 2 if decode == "safe" else 1

    def fits(scale: int) -> bool:
        if (target_width, target_height) == (width, height):
            return False  # there is nothing to shrink
        return -(-width // scale) >= room * target_width and -(-height // scale) >= room * target_height

    assert made.scale in (1, 2, 4, 8)
    assert made.scale == max([1, *(scale for scale in (2, 4, 8) if fits(scale))])
    assert sorted((made.decoded.width, made.decoded.height)) == sorted(
        (-(-width // made.scale), -(-height // made.scale))
    )
    kept = (new_width, new_height) if fit == "cover" else (target_width, target_height)
    frame = made.outputs[0].frame
    assert (frame.width, frame.height) == (min(kept[0], target_width), min(kept[1], target_height))


@pytest.mark.parametrize(
    ("text", "decode", "scale"),
    [
        ("resize 1000x750", "safe", 2),
        ("resize 1000x750", "fast", 4),
        ("resize 1000x750", "exact", 1),
        ("resize 1001x750", "fast", 2),
        ("resize 248x", "safe", 8),
        ("resize 250x", "safe", 4),
        ("resize 10x", "safe", 8),
        ("resize 5000x", "fast", 1),
        ("rotate 90 | resize 750x1000", "fast", 4),
        ("grayscale | resize 1000x750", "fast", 4),
        ("resize 1000x750 kernel=nearest", "fast", 1),
        ("median_blur 3 | resize 100x", "fast", 1),
        ("crop 100x100 | resize 10x", "fast", 1),
        ("invert | resize 100x", "fast", 1),
        ("grayscale", "fast", 1),
    ],
)
def test_only_a_resize_that_comes_first_shrinks_the_decode(text: str, decode: Decode, scale: int) -> None:
    assert plan(text, decode=decode).scale == scale


@pytest.mark.parametrize(
    ("text", "decode", "luma"),
    [
        ("grayscale", "safe", True),
        ("resize 50% | grayscale", "safe", True),
        ("flip | rotate 90 | crop 10x10 | grayscale | median_blur 3", "fast", True),
        ("grayscale", "exact", False),
        ("invert | grayscale", "safe", False),
        ("median_blur 3 | grayscale", "safe", False),
        ("resize 50%", "safe", False),
        ("canny", "safe", False),
    ],
)
def test_luma_alone_is_decoded_where_grayscale_comes_first(text: str, decode: Decode, luma: bool) -> None:
    made = plan(text, decode=decode)
    assert made.luma is luma
    assert made.decoded.channels == (1 if luma else 3)


def test_hints_are_those_that_all_outputs_can_live_with() -> None:
    both = make_plan(PHOTO, recipe("resize 500x | grayscale", "resize 1000x", decode="fast"))
    assert (both.luma, both.scale) == (False, 4)
    assert [output.frame for output in both.outputs] == [Frame(500, 375, 1), Frame(1000, 750, 3)]


def test_what_cannot_be_scaled_is_decoded_whole() -> None:
    made = plan("resize 10x | grayscale", Header("png", Frame(4000, 3000, 3)), "fast")
    assert (made.luma, made.scale, made.decoded) == (False, 1, Frame(4000, 3000, 3))


def test_a_plan_is_a_function_of_header_and_recipe_alone() -> None:
    asked = recipe("resize 640x480 fit=cover | grayscale")
    made = make_plan(PHOTO, asked)
    code = (
        "import sys, msgspec; from imageloom.model import Header, Recipe;"
        "from imageloom.recipes.plan import make_plan;"
        "header, recipe = msgspec.json.decode(sys.argv[1], type=tuple[Header, Recipe]);"
        "sys.stdout.write(msgspec.json.encode(make_plan(header, recipe)).decode())"
    )
    arguments = [sys.executable, "-c", code, msgspec.json.encode((PHOTO, asked)).decode()]
    elsewhere = subprocess.run(arguments, capture_output=True, check=True, timeout=60, cwd="/").stdout
    assert msgspec.json.decode(elsewhere, type=Plan) == made


def test_too_many_pixels_are_refused_with_limit_value_and_flag() -> None:
    check_limits(PHOTO, Limits(max_pixels=12_000_000), 5_000_000)
    with pytest.raises(LimitExceeded, match=r"12,000,000 pixels .4000x3000., .* 11,999,999 \(--max-pixels\)"):
        check_limits(PHOTO, Limits(max_pixels=11_999_999), 5_000_000)


@pytest.mark.parametrize(
    ("text", "header", "format", "error", "message"),
    [
        ("invert", Header("png", Frame(9, 9, 4)), "jpeg", UnsupportedImage, "alpha.*--format png"),
        ("invert", Header("png", Frame(9, 9, 3, "uint16")), "jpeg", UnsupportedImage, "uint16.*--format png"),
        ("resize 70000x1", PHOTO, "jpeg", UnsupportedImage, "65500"),
        ("crop 5000x10", PHOTO, None, OperatorRefused, "crop: 5000x10 .* 4000x3000"),
        ("canny", Header("png", Frame(9, 9, 1, "uint16")), None, OperatorRefused, "canny .*uint16.* uint8"),
        ("threshold otsu", PHOTO, None, OperatorRefused, "otsu takes one channel"),
    ],
)
def test_what_cannot_be_done_is_refused_from_the_header(
    text: str, header: Header, format: Format | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan(text, header, format=format)


def test_explain_says_what_is_planned_and_why() -> None:
    turned = Header("jpeg", Frame(4000, 3000, 3), orientation=6, scalable=True)
    text = "\n".join(explain(turned, recipe("resize 512x512 | grayscale | gaussian_blur 1"), 5_000_000))
    for part in (
        "4000x3000 RGB",
        "5,000,000",
        "rotate 90",
        "1/2 of the size",
        "luma only",
        "halo 3",
        "512x512 gray",
        "85",
    ):
        assert part in text


def test_an_image_over_the_memory_is_refused_with_the_number(tmp_path: Path) -> None:
    data = codecs.get("jpeg").encode(draw_photo(1), Encoding(85))
    (tmp_path / "photo.jpg").write_bytes(data)
    needs = make_plan(codecs.read_header(lambda n: data[:n], len(data)), recipe("invert")).bytes + len(data)
    events: list[Event] = []

    def run(memory: int) -> int:
        return process(
            "invert", tmp_path / "photo.jpg", tmp_path / "out", memory=memory, listeners=[events.append]
        ).failed

    assert run(needs - 1) == 1
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.result.failure is not None
    assert failed.result.failure.kind == "LimitExceeded"
    assert f"{needs:,} bytes" in failed.result.failure.message
    assert f"{needs - 1:,} (--memory)" in failed.result.failure.message
    assert run(needs) == 0


PEAK = """
import sys
from imageloom import codecs
from imageloom.worker import perform as worker
from imageloom.model import Item, Limits, Output, Recipe, Task, Work
from imageloom.recipes.pipeline import Pipeline
source, sink, small, big, *texts = sys.argv[1:]
recipe = Recipe(tuple(Output(Pipeline(text).steps, str(n)) for n, text in enumerate(texts)), "exact")
def perform(key):
    names = tuple(f"{n}/{key}" for n in range(len(texts)))
    task = Task(1, "1", source, sink, recipe, Limits(), (Work(Item(key), names, 1),))
    (result,) = worker.perform(task).results
    assert result.failure is None, result.failure
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
before = perform(small)
sys.stdout.write(str(perform(big) - before))
"""


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    ("channels", "texts"),
    [
        (3, ["invert"]),
        (1, ["canny 50 100"]),
        (3, ["canny 50 100"]),
        (4, ["gaussian_blur 2"]),
        (4, ["resize 50%"]),
        (4, ["median_blur 5"]),
        (1, ["threshold otsu"]),
        (3, ["rotate 90 | resize 150%"]),
        (3, ["invert", "flip", "median_blur 3", "gaussian_blur 1"]),
    ],
    ids=lambda value: "; ".join(value) if isinstance(value, list) else str(value),
)
def test_no_more_memory_is_taken_than_planned(
    channels: int, texts: list[str], dtype: str, tmp_path: Path
) -> None:
    """The peak of a process beyond what a small image needs; noise is the encoder's worst case."""
    for name, shape in (("big", (1000, 1500, channels)), ("small", (20, 30, channels))):
        pixels = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
        pixels = pixels[:, :, 0] if channels == 1 else pixels
        (tmp_path / f"{name}.png").write_bytes(codecs.get("png").encode(pixels, Encoding(0)))
    (tmp_path / "out" / ".imageloom").mkdir(parents=True)
    big = (tmp_path / "big.png").read_bytes()
    header = codecs.read_header(lambda length: big[:length], len(big))
    try:
        planned = make_plan(header, recipe(*texts, decode="exact")).bytes + len(big)
    except OperatorRefused:
        pytest.skip(f"{texts[0]} does not take {dtype}")
    arguments = [sys.executable, "-c", PEAK, str(tmp_path), str(tmp_path / "out"), "small.png", "big.png"]
    done = subprocess.run([*arguments, *texts], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) <= planned
