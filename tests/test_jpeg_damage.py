"""JPEGs that every viewer shows, and damaged ones: decoded alike with and without tiles, or refused by name."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from faithful import Refused, scene, through
from imageloom import codecs, process
from imageloom.codecs.damage import DamageLog
from imageloom.errors import CorruptImage, PipelineError, UnsupportedImage
from imageloom.model import Pixels
from imageloom.recipes.recipe import read_recipe
from jpegs import both_ways, inserted, jpeg, pixels_of, segment
from program import imageloom

SOS = b"\xff\xda"


def decoded(data: bytes, policy: str = "warn") -> tuple[Pixels, tuple[str, ...]]:
    damage = DamageLog(policy)  # type: ignore[arg-type]
    return codecs.decode(data, codecs.header_of(data), damage=damage), damage.warnings


def scan_parameters(data: bytes) -> bytes:
    at = data.index(SOS)
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
    return data[: end - 3] + bytes(3) + data[end:]


def restart_numbers(data: bytes) -> bytes:
    at = data.index(SOS)
    return data[:at] + re.sub(rb"\xff[\xd0-\xd7]", b"\xff\xd0", data[at:])


def lines_later(data: bytes) -> bytes:
    """The number of lines is 0 in the frame header, and defined behind the scan."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + b"\0\0" + data[at + 2 : -2] + segment(0xDC, data[at : at + 2]) + data[-2:]


def profile_numbers(data: bytes) -> bytes:
    body = b"ICC_PROFILE\0\1\3" + bytes(200)
    return inserted(data, segment(0xE2, body) + segment(0xE2, body))


ADOBE = segment(0xEE, b"Adobe\0\x64" + bytes(4) + b"\x09")
REPAIRED: dict[str, Callable[[bytes], bytes]] = {
    "the parameters of a scan": scan_parameters,
    "2 stray bytes": lambda data: inserted(data, b"\0\1"),
    "1 stray byte": lambda data: inserted(data, b"\1", 0xDA),
    "the end of the image is not marked": lambda data: data[:-2],
    "the restart markers are numbered wrongly": restart_numbers,
    "the version of JFIF": lambda data: data.replace(b"JFIF\0\1", b"JFIF\0\7"),
    "the colour transform of Adobe": lambda data: data[:2] + ADOBE + data[20:],
    "the parts of the colour profile": profile_numbers,
}
ACCEPTED: dict[str, Callable[[bytes], bytes]] = {
    "lines after the scan": lines_later,
    "fill bytes": lambda data: inserted(data, b"\xff" * 9, 0xDB),
    "segment without length": lambda data: inserted(data, b"\xff\xe5\0\0\xff\xe6\0\1"),
    "empty segments": lambda data: inserted(
        data, segment(0xE7, b"") + segment(0xEE, b"") + segment(0xE0, b"")
    ),
    "zeros at the end of the scan": lambda data: data[:-2] + bytes(7) + data[-2:],
    "data behind the image": lambda data: data + bytes(5000),
    "text behind the image": lambda data: data + b"#" * 5000,
}


@pytest.mark.parametrize("name", REPAIRED)
def test_damage_that_leaves_all_pixels_is_repaired_and_told(name: str, tmp_path: Path) -> None:
    whole = jpeg(restart_marker_blocks=5)
    damaged = REPAIRED[name](whole)
    pixels, warnings = decoded(damaged)
    assert np.array_equal(pixels, decoded(whole)[0])
    assert [warning for warning in warnings if name in warning], warnings
    with pytest.raises(CorruptImage, match=r"--damage refuse"):
        decoded(damaged, "refuse")
    both_ways(tmp_path, damaged)


def test_bytes_too_many_between_scans_are_left_out(tmp_path: Path) -> None:
    whole = jpeg(progressive=True)
    at = whole.rindex(b"\xff\xc4")
    damaged = whole[:at] + b"\1\2\3\4\5\6\7\x08\x09" + whole[at:]
    pixels, warnings = decoded(damaged)
    assert np.array_equal(pixels, decoded(whole)[0])
    assert warnings == ("there are bytes too many at the end of a scan",)
    both_ways(tmp_path, damaged)


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_odd_and_allowed_is_no_damage(name: str, tmp_path: Path) -> None:
    whole = jpeg()
    odd = ACCEPTED[name](whole)
    pixels, warnings = decoded(odd, "refuse")
    assert np.array_equal(pixels, decoded(whole)[0])
    assert not warnings
    both_ways(tmp_path, odd)


@pytest.mark.parametrize(
    "factors",
    [(0x22, 0x11, 0x12), (0x22, 0x21, 0x11), (0x21, 0x11, 0x21), (0x13, 0x11, 0x11), (0x14, 0x11, 0x11)],
)
@pytest.mark.parametrize("pipeline", ["flip", "grayscale", "resize 25%"])
def test_any_sampling_is_decoded(factors: tuple[int, ...], pipeline: str, tmp_path: Path) -> None:
    pixels = np.full((75, 97, 3), (200, 90, 40), np.uint8)  # with other factors, the blocks are other ones
    data = bytearray(jpeg(pixels, subsampling=0))
    frame = data.index(b"\xff\xc0")
    for place, pair in zip((11, 14, 17), factors, strict=True):
        data[frame + place] = pair
    scan = data.index(SOS) + 14
    with_room = bytes(data[:-2]) + bytes(data[scan:-2]) * 8 + b"\xff\xd9"
    assert pixels_of(with_room).size == (97, 75)
    both_ways(tmp_path, with_room, pipeline)


def test_missing_rows_are_gray_only_if_that_is_asked_for(tmp_path: Path) -> None:
    whole = jpeg(scene(3, width=200, height=160))
    cut = whole[: len(whole) * 2 // 3]
    with pytest.raises(
        Refused, match=r"CorruptImage: .*the last \d+ of 160 rows are missing.*--damage salvage"
    ):
        both_ways(tmp_path, cut)
    pixels, warnings = decoded(cut, "salvage")
    said = re.search(r"the last (\d+) of 160 rows are missing", " ".join(warnings))
    assert said
    rows = int(said[1])
    assert 16 < rows < 144
    assert (pixels[-rows:, -8:] == 128).all()
    kept = 160 - rows - 16  # chroma is interpolated from the rows below
    assert np.array_equal(pixels[:kept], decoded(whole)[0][:kept])
    (tmp_path / "salvaged").mkdir()
    both_ways(tmp_path / "salvaged", cut, damage="salvage")


def test_damage_of_the_last_rows_alone_is_found(tmp_path: Path) -> None:
    whole = jpeg(scene(3, width=200, height=160))
    damaged = whole[:-12] + whole[-2:]
    with pytest.raises(Refused, match="salvage"):
        through(tmp_path, damaged, "flip", name="image.jpg", tile="always")
    with pytest.raises(CorruptImage, match="salvage"):
        decoded(damaged)


def test_a_progressive_image_without_its_last_scans_is_not_complete() -> None:
    whole = jpeg(progressive=True)
    for end in (whole.rindex(b"\xff\xc4"), whole.rindex(b"\xff\xc4") + 9):
        with pytest.raises(CorruptImage, match=r"last scans are missing.*salvage"):
            decoded(whole[:end])
        assert "last scans" in decoded(whole[:end], "salvage")[1][-1]
    assert decoded(whole[:-2])[1] == ("the end of the image is not marked",)


def test_wrong_pixels_are_missing_pixels() -> None:
    data = bytearray(jpeg(scene(3, width=200, height=160)))
    at = data.index(SOS) + 300
    data[at : at + 40] = b"\xff\0" * 20
    with pytest.raises(CorruptImage, match="salvage"):
        decoded(bytes(data))
    assert decoded(bytes(data), "salvage")[1]


@pytest.mark.parametrize("progressive", [True, False])
def test_too_many_scans_are_refused_whatever_else_is_odd(progressive: bool, tmp_path: Path) -> None:
    data = inserted(jpeg(progressive=progressive), b"\0")
    scan = data.rindex(SOS)
    bomb = data[:-2] + data[scan:-2] * 200 + data[-2:]
    with pytest.raises((UnsupportedImage, CorruptImage), match=r"scans|cannot be decoded"):
        decoded(bomb)
    with pytest.raises(Refused, match=r"scans|cannot be decoded"):
        both_ways(tmp_path, bomb)


def test_any_damage_is_decoded_or_named() -> None:
    data = jpeg(restart_marker_blocks=3)
    chance = random.Random(7)
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(chance.randint(1, 5)):
            broken[chance.randrange(2, len(broken))] = chance.randrange(256)
        cut = bytes(broken[: chance.choice((len(broken), chance.randrange(20, len(broken))))])
        for policy in ("warn", "salvage"):
            with suppress(CorruptImage, UnsupportedImage):
                decoded(cut, policy)


def test_a_batch_of_odd_files_is_done_on_threads_as_in_turn(tmp_path: Path) -> None:
    whole = jpeg(restart_marker_blocks=5)
    (tmp_path / "in").mkdir()
    files = [change(whole) for change in (*REPAIRED.values(), *ACCEPTED.values())]
    for number, data in enumerate((*files, whole[:-400])):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(data)
    made = {}
    for engine in ("serial", "threads"):
        sink = tmp_path / engine
        summary = process(
            "flip", tmp_path / "in", sink, engine=engine, jobs=2, ledger=tmp_path / f"{engine}.db"
        )
        assert (summary.done, summary.failed) == (len(REPAIRED) + len(ACCEPTED), 1)
        made[engine] = {path.name: path.read_bytes() for path in sink.iterdir() if path.is_file()}
    assert made["serial"] == made["threads"]


def test_a_recipe_says_which_damage_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("damage: salvage\noutputs:\n  small: {pipeline: flip, subsampling: 444, folder: ''}\n")
    recipe = read_recipe(str(file))
    assert recipe.damage == "salvage"
    assert recipe.outputs[0].subsampling == "444"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(jpeg()[:-400])
    out = tmp_path / "out"
    ran = imageloom("run", file, tmp_path / "in", out, "--ledger", tmp_path / "l", "--json")
    assert "rows are missing" in ran.stdout
    assert codecs.header_of((out / "a.jpg").read_bytes()).subsampling == "444"
    refused = imageloom("run", "flip", tmp_path / "in", tmp_path / "other", "--ledger", tmp_path / "l")
    assert refused.returncode == 1
    assert "--damage salvage accepts it" in refused.stderr
    file.write_text("damage: some\noutputs: {small: flip}\n")
    with pytest.raises(PipelineError, match="damage = 'some': it must be one of warn, refuse, salvage"):
        read_recipe(str(file))
