"""Pages of files: the first one, all, or one; each is an item of its own."""

from __future__ import annotations

import io
import sqlite3
import struct
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from faithful import opened, saved, scene
from imageloom import codecs, process, stores
from imageloom.errors import UnsupportedImage, UsageError
from imageloom.model import Item, Job, Output, Recipe, page_key
from imageloom.records.events import Done, Event, Failed
from places import Memory
from program import imageloom
from watching import Watching

NAMED = "{dir}/{stem}-{page}.{ext}"


def pdf(*colours: str) -> bytes:
    pages = [Image.new("RGB", (72, 36 + 10 * n), colour) for n, colour in enumerate(colours)]
    file = io.BytesIO()
    pages[0].save(file, "PDF", save_all=True, append_images=pages[1:], resolution=72)
    return file.getvalue()


def collection() -> bytes:
    heif = pytest.importorskip("pillow_heif")
    made = heif.HeifFile()
    for size in ((32, 24), (64, 48), (24, 40)):
        image = scene(3, width=size[0], height=size[1])
        made.add_frombytes("RGB", size, image.tobytes())
    file = io.BytesIO()
    made.save(file, quality=90, primary_index=1)
    return file.getvalue()


class Run:
    """Runs over one folder, into one sink, with one ledger."""

    def __init__(self, folder: Path) -> None:
        self.source, self.sink, self.ledger = folder / "source", folder / "sink", folder / "ledger"
        self.source.mkdir()
        self.dropped: dict[str, tuple[str, ...]] = {}
        self.failed: dict[str, str] = {}

    def __call__(self, pipeline: str = "invert", **options: Any) -> tuple[int, int, int]:
        self.dropped, self.failed = {}, {}
        options = {"engine": "serial", "format": "png", "ledger": self.ledger, **options}
        made = process(pipeline, self.source, self.sink, listeners=[self._listen], **options)
        return made.done, made.failed, made.skipped

    def _listen(self, event: Event) -> None:
        if isinstance(event, Done):
            self.dropped[event.result.key] = event.result.dropped
        if isinstance(event, Failed) and event.result.failure:
            self.failed[event.result.key] = event.result.failure.message

    def sizes(self) -> dict[str, tuple[int, int]]:
        return {path.name: opened(path.read_bytes()).size for path in self.sink.iterdir() if path.is_file()}

    def pixel(self, name: str) -> list[int]:
        image = opened((self.sink / name).read_bytes()).convert("RGB")
        return [round(value / 255) for value in image.getpixel((9, 9))]  # type: ignore[union-attr]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_keys_of_pages() -> None:
    key = page_key("a/scan.tif", 1)
    assert key == "a/scan.tif/./page=2"
    assert (Item(key).path, Item(key).page) == ("a/scan.tif", 1)
    for other in ("a/scan.tif", "a/./page=0", "a/./page=1x", "a/./b/page=1", "./page=1"):
        assert (Item(other).path, Item(other).page) == (other, 0)


def test_files_of_a_store_whose_pages_are_processed_are_not_kept(run: Run) -> None:
    place, most = Memory("pages"), 0
    for number in range(4):
        place.put(f"{number}.pdf", pdf("red", "blue"))

    def look(event: Event) -> None:
        nonlocal most
        if isinstance(event, Done):
            most = sum("/./" not in item.key for _, item in stores.kept)

    options: dict[str, Any] = {"format": "png", "density": 72, "pages": "all", "name": NAMED}
    process(
        "invert", place.address, run.sink, ledger=run.ledger, engine="threads", listeners=[look], **options
    )
    assert len(run.sizes()) == 8
    assert most == 0


@pytest.mark.parametrize("tile", ["always", "never"])
def test_the_first_page_and_a_loss(run: Run, tile: str) -> None:
    (run.source / "a.pdf").write_bytes(pdf("red", "blue"))
    assert run(tile=tile, density=72) == (1, 0, 0)
    assert run.dropped["a.pdf"] == ("pages",)
    assert run.sizes() == {"a.png": (72, 36)}
    assert run.pixel("a.png") == [0, 1, 1]


@pytest.mark.parametrize("tile", ["always", "never"])
def test_all_pages(run: Run, tile: str) -> None:
    (run.source / "a.pdf").write_bytes(pdf("red", "blue", "white"))
    (run.source / "b.pdf").write_bytes(pdf("white"))
    assert run(tile=tile, density=72, pages="all", name=NAMED) == (4, 0, 0)
    assert run.sizes() == {"a-1.png": (72, 36), "a-2.png": (72, 46), "a-3.png": (72, 56), "b-1.png": (72, 36)}
    assert run.pixel("a-2.png") == [1, 1, 0]
    assert set(run.dropped) == {page_key("a.pdf", 0), page_key("a.pdf", 1), page_key("a.pdf", 2), "b.pdf"}
    assert not any(run.dropped.values())
    assert run(density=72, pages="all", name=NAMED) == (0, 0, 4)
    with closing(sqlite3.connect(run.ledger)) as book, book:
        assert (page_key("a.pdf", 1),) in book.execute("select distinct key from items").fetchall()


def test_pages_fail_each_alone_and_are_retried(run: Run) -> None:
    (run.source / "a.pdf").write_bytes(pdf("red", "blue", "white"))
    (run.sink).mkdir()
    (run.sink / "a-2.png").write_bytes(b"mine")
    assert run(density=72, pages="all", name=NAMED) == (2, 1, 0)
    assert list(run.failed) == [page_key("a.pdf", 1)]
    (run.sink / "a-2.png").unlink()
    assert run(density=72, pages="all", name=NAMED, retry_failed=True) == (1, 0, 2)


def test_names_need_the_page(run: Run) -> None:
    (run.source / "a.pdf").write_bytes(pdf("red", "blue"))
    (run.source / "b.pdf").write_bytes(pdf("red"))
    assert run(density=72, pages="all") == (1, 1, 0)
    assert "give their outputs names with {page}" in run.failed["a.pdf"]


def test_one_page(run: Run) -> None:
    (run.source / "a.pdf").write_bytes(pdf("red", "blue"))
    (run.source / "b.pdf").write_bytes(pdf("red"))
    assert run(density=72, pages=2) == (1, 1, 0)
    assert run.sizes() == {"a.png": (72, 46)}
    assert "there is no page 2" in run.failed[page_key("b.pdf", 1)]
    assert run.dropped[page_key("a.pdf", 1)] == ()


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_images_of_a_collection(run: Run, engine: str) -> None:
    (run.source / "a.heic").write_bytes(collection())
    assert run("flip | flip", engine=engine, pages="all", name=NAMED) == (3, 0, 0)
    assert run.sizes() == {"a-1.png": (64, 48), "a-2.png": (32, 24), "a-3.png": (24, 40)}
    found = np.asarray(opened((run.sink / "a-3.png").read_bytes())).astype(int)
    assert np.abs(found - scene(3, width=24, height=40)).mean() < 3


def test_density_of_a_drawing(run: Run) -> None:
    (run.source / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="1in" height="48"/>')
    assert run(density=300) == (1, 0, 0)
    assert run.sizes() == {"a.png": (300, 150)}


def test_in_place_has_no_pages(run: Run) -> None:
    (run.source / "a.pdf").write_bytes(pdf("red"))
    with pytest.raises(UsageError, match="--pages all is not possible with --in-place"):
        process("flip", run.source, run.source, in_place=True, pages="all", ledger=run.ledger)


def tiff(path: Path, bigtiff: bool = False, order: str = "<") -> list[Any]:
    """Three pages that differ in all that pages may differ in, each with a smaller copy behind it."""
    images = [
        scene(3, width=40, height=30),
        scene(1, "uint16", width=64, height=64),
        scene(4, width=33, height=17),
    ]
    options: list[dict[str, Any]] = [
        {"photometric": "rgb", "compression": "deflate"},
        {"photometric": "minisblack", "tile": (32, 32)},
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
    ]
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=order) as file:  # type: ignore[arg-type]
        for image, how in zip(images, options, strict=True):
            file.write(image, description=f"page {image.shape[1]}", metadata=None, **how)
            file.write(image[::2, ::2], subfiletype=1, metadata=None, photometric=how["photometric"])
    return images


@pytest.mark.parametrize("tile", ["always", "never"])
@pytest.mark.parametrize(("bigtiff", "order"), [(False, "<"), (True, ">")])
def test_pages_of_a_tiff(run: Run, tile: str, bigtiff: bool, order: str) -> None:
    images = tiff(run.source / "a.tif", bigtiff, order)
    made = run("flip | flip", tile=tile, pages="all", name=NAMED, format="tiff")
    assert made == (3, 0, 0), run.failed
    for number, image in enumerate(images, 1):
        path = run.sink / f"a-{number}.tif"
        np.testing.assert_array_equal(tifffile.imread(path), image)
        with tifffile.TiffFile(path) as file:
            assert file.pages.first.description == f"page {image.shape[1]}"


@pytest.mark.parametrize("tile", ["always", "never"])
def test_the_first_page_of_a_tiff(run: Run, tile: str) -> None:
    images = tiff(run.source / "a.tif")
    assert run("flip | flip", tile=tile, format="tiff") == (1, 0, 0)
    assert "pages" in run.dropped["a.tif"]
    np.testing.assert_array_equal(tifffile.imread(run.sink / "a.tif"), images[0])


def test_smaller_copies_are_no_pages(run: Run) -> None:
    image = scene(3, width=64, height=64)
    with tifffile.TiffWriter(run.source / "a.tif") as file:
        file.write(image, tile=(32, 32), subifds=1, metadata=None, photometric="rgb")
        file.write(image[::2, ::2], tile=(32, 32), subfiletype=1, metadata=None, photometric="rgb")
    assert run("flip | flip", pages="all", name=NAMED) == (1, 0, 0)
    assert run.sizes() == {"a-1.png": (64, 64)}


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_a_frame_of_an_animation(run: Run, format: str) -> None:
    frames = [Image.fromarray(np.roll(scene(3), 5 * i, axis=1)).quantize(64) for i in range(3)]
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    (run.source / f"a.{format.lower()}").write_bytes(data)
    assert run("flip | flip", pages=3) == (1, 0, 0), run.failed
    made, wanted = opened((run.sink / "a.png").read_bytes()), opened(data)
    wanted.seek(2)
    np.testing.assert_array_equal(np.asarray(made), np.asarray(wanted.convert("RGBA")))
    assert run(pages=4)[1] == 1
    assert "the file has 3 pages" in str(run.failed)
    assert run("flip | flip", pages="all", name=NAMED) == (3, 0, 0), run.failed
    assert {"a-1.png", "a-2.png", "a-3.png"} <= set(run.sizes())
    assert run("flip | flip", name="{stem}.first.{ext}") == (1, 0, 0)
    assert run.dropped[f"a.{format.lower()}"] == ("animation",)


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("tile", ["always", "never"])
def test_a_pyramid_is_read_at_the_level_that_suffices(run: Run, below: bool, tile: str) -> None:
    image = scene(3, width=256, height=192)
    levels = [np.full((192 // n, 256 // n, 3), n, np.uint8) for n in (2, 4, 8)]
    with tifffile.TiffWriter(run.source / "a.tif") as file:
        how: dict[str, Any] = {"tile": (32, 32), "metadata": None, "photometric": "rgb"}
        file.write(image, subifds=3 if below else 0, **how)
        for level in levels:
            file.write(level, subfiletype=1, **how)
    for width, decode, value in ((128, "safe", 1), (64, "safe", 2), (64, "fast", 4), (16, "safe", 8)):
        name = f"{width}-{decode}.{{ext}}"
        made = run(f"resize {width}x", tile=tile, name="{stem}" + name, decode=decode)
        assert made == (1, 0, 0), run.failed
        pixels = np.asarray(opened((run.sink / f"a{width}-{decode}.png").read_bytes()))
        assert pixels.shape[:2] == (width * 3 // 4, width)
        assert value == 1 or (pixels == value).all(), (width, decode)
    assert run("resize 16x", tile=tile, name="{stem}exact.{ext}", decode="exact") == (1, 0, 0)
    assert np.ptp(np.asarray(opened((run.sink / "aexact.png").read_bytes()))) > 200


def three_pages() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as made:
        for value in (10, 20, 30):
            made.write(np.full((24, 32), value, np.uint8), metadata=None, photometric="minisblack")
    return file.getvalue()


@pytest.mark.parametrize("tile", ["always", "never"])
def test_in_place_keeps_files_of_several_pages(run: Run, tile: str) -> None:
    animation = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    files = {
        "a.tif": three_pages(),
        "b.png": saved(animation[0], "PNG", save_all=True, append_images=animation[1:]),
        "c.webp": saved(animation[0], "WEBP", save_all=True, append_images=animation[1:]),
    }
    for name, data in files.items():
        (run.source / name).write_bytes(data)
    (run.source / "d.tif").write_bytes(saved(Image.new("L", (8, 8), 5), "TIFF"))
    lost: dict[str, str] = {}

    def listen(event: Event) -> None:
        if isinstance(event, Failed) and event.result.failure:
            lost[event.result.key] = f"{event.result.failure.kind}: {event.result.failure.message}"

    options: dict[str, Any] = {"in_place": True, "ledger": run.ledger, "tile": tile, "listeners": [listen]}
    made = process("invert", run.source, run.source, engine="serial", **options)
    assert (made.done, made.failed) == (1, 3)
    assert all(
        "MetadataLost: --in-place would remove all but its first picture" in lost[name] for name in files
    )
    assert {name: (run.source / name).read_bytes() for name in files} == files
    assert sorted(path.name for path in run.source.iterdir()) == ["a.tif", "b.png", "c.webp", "d.tif"]
    made = process("invert", run.source, run.source, engine="serial", pages=1, **options)
    assert (made.done, made.failed) == (3 + 1, 0)
    with tifffile.TiffFile(run.source / "a.tif") as file:
        assert [page.asarray()[0, 0] for page in file.pages] == [245]


def test_the_first_page_in_so_many_words(run: Run) -> None:
    (run.source / "a.tif").write_bytes(three_pages())
    ledger = ("--ledger", str(run.ledger))
    refused = imageloom("run", "invert", str(run.source), "--in-place", *ledger)
    assert refused.returncode == 1
    assert "--in-place would remove all but its first picture (pages)" in refused.stderr
    assert (run.source / "a.tif").read_bytes() == three_pages()
    made = imageloom("run", "invert", str(run.source), "--in-place", "--pages", "first", *ledger)
    assert made.returncode == 0, made.stderr
    assert tifffile.imread(run.source / "a.tif")[0, 0] == 245


@pytest.mark.parametrize("pages", ["all", "2"])
def test_pages_in_a_watch(run: Run, pages: str) -> None:
    (run.source / "a.tif").write_bytes(three_pages())
    numbers = (1, 2, 3) if pages == "all" else (2,)
    options = (
        "--pages",
        pages,
        "--name",
        NAMED,
        "--format",
        "png",
        "--until-idle",
        "1",
        "--ledger",
        str(run.ledger),
    )
    keys = [page_key("a.tif", number - 1) for number in numbers]
    with Watching("invert", run.source, run.sink, *options) as watch:
        watch.wait_for(*keys)
        (run.source / "a.tif").write_bytes(three_pages() + bytes(2))
        watch.wait_for(*keys, times=2)
        (run.source / "b.tif").write_bytes(three_pages())
        watch.wait_for(*(page_key("b.tif", number - 1) for number in numbers))
        assert watch.code() == 0, watch.told
    assert set(run.sizes()) == {f"{stem}-{number}.png" for stem in "ab" for number in numbers}
    with Watching("invert", run.source, run.sink, *options) as watch:
        assert watch.code() == 0, watch.told
        assert watch.items("done") == []


def chain(count: int, order: str = "<") -> bytes:
    """A TIFF of so many pages of one pixel, which share it."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    tags = {254: 2, 256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    body = struct.pack(f"{order}H", len(tags)) + entries
    size = len(body) + 4
    places = [16 + size * page for page in range(count)] + [0]
    directories = [body + struct.pack(f"{order}I", after) for after in places[1:]]
    return mark + struct.pack(f"{order}I", 16) + b"\x80" + bytes(7) + b"".join(directories)


def test_pages_of_long_files_are_bounded() -> None:
    began = time.process_time()
    data = chain(20_000)
    header = codecs.header_of(data, 19_999)
    assert (header.pages, header.page) == (20_000, 19_999)
    assert codecs.decode(data, header)[0, 0] == 128
    codecs.read_metadata(data, "tiff", 19_999)
    with pytest.raises(UnsupportedImage, match="TIFF of more than 65,536 directories"):
        codecs.header_of(chain(66_000))
    assert time.process_time() - began < 5
    assert codecs.header_of(chain(3, ">"), 2).pages == 3


def test_a_pdf_of_many_pages() -> None:
    began = time.process_time()
    kids = b" ".join(b"%d 0 R" % (3 + page) for page in range(10_000))
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 10000/Kids[" + kids + b"]>>"]
    objects += [b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 %d]>>" % (7 + page % 9) for page in range(10_000)]
    data = b"%PDF-1.4\n" + b"".join(b"%d 0 obj%bendobj\n" % (1 + n, body) for n, body in enumerate(objects))
    data += b"trailer<</Root 1 0 R>>\n%%EOF\n"
    header = codecs.header_of(data, 9_999, 72)
    assert (header.pages, header.frame.height) == (10_000, 7)
    assert codecs.decode(data, header).shape == (7, 9, 3)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("pages", ["first", "all", 3])
def test_pages_are_sent_to_a_server(pages: Any) -> None:
    from imageloom.service.messages import to_job, to_request

    recipe = Recipe((Output(()),), pages=pages, density=200)
    request = to_request(Job("in", "out", recipe), "1", False)
    assert to_job(request).recipe == recipe
    assert set(request.needs) == {"density"} | ({"pages"} if pages != "first" else set())
