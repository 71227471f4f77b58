"""The conversion to sRGB against ArgyllCMS, with profiles of Debian: argyll, ghostscript, icc-profiles-free."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile

from imageloom import Pixels
from program import Run

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("cctiff") is None, reason="argyll is not installed"),
]
SHARED = Path("/usr/share/color")
SRGB = SHARED / "argyll/ref/sRGB.icm"
PROFILES = {
    "argyll/ref/DisplayP3.icm": "rgb",
    "argyll/ref/ClayRGB1998.icm": "rgb",
    "argyll/ref/ProPhoto.icm": "rgb",
    "argyll/ref/Rec2020.icm": "rgb",
    "icc/LStar-RGB.icc": "rgb",
    "icc/Gray.icc": "minisblack",
    "icc/ghostscript/sgray.icc": "minisblack",
    "icc/ghostscript/default_cmyk.icc": "separated",
}
_TO_XYZ = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)


def lab(rgb: Pixels) -> Pixels:
    """CIELab of sRGB from 0 to 1."""
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = light @ _TO_XYZ.T / (0.9642, 1, 0.8249)
    roots = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(roots, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def ciede2000(one: Pixels, other: Pixels) -> Pixels:
    """The differences of two arrays of CIELab (Sharma, Wu and Dalal, 2005)."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25.0**7))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * stretch)) % 360 for a, b in ((a1, b1), (a2, b2)))
    dh = (h2 - h1 + 180) % 360 - 180
    dh = np.where(c1 * c2 == 0, 0, dh)
    hue = np.where(c1 * c2 == 0, h1 + h2, (h1 + dh / 2) % 360)
    level, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    cosines = [np.cos(np.radians(n * hue - at)) for n, at in ((1, 30), (2, 0), (3, -6), (4, 63))]
    t = 1 + np.tensordot((-0.17, 0.24, 0.32, -0.2), cosines, 1)
    turn = 60 * np.exp(-(((hue - 275) / 25) ** 2))
    around = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(np.radians(turn))
    dl = (l2 - l1) / (1 + 0.015 * (level - 50) ** 2 / np.sqrt(20 + (level - 50) ** 2))
    dc = (c2 - c1) / (1 + 0.045 * chroma)
    dhue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(dh / 2)) / (1 + 0.015 * chroma * t)
    found: Pixels = np.sqrt(dl**2 + dc**2 + dhue**2 + around * dc * dhue)
    return found


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("name", PROFILES)
def test_results_differ_less_than_can_be_seen(name: str, dtype: str, tmp_path: Path) -> None:
    profile, kind = SHARED / name, PROFILES[name]
    if not profile.exists():
        pytest.skip(f"{profile} is not installed")
    channels = {"rgb": (3,), "minisblack": (), "separated": (4,)}[kind]
    levels = np.random.default_rng(1).integers(0, 256, (120, 160, *channels)).astype(np.uint16) * 257
    image = levels if dtype == "uint16" else (levels // 257).astype(np.uint8)
    plain, source = tmp_path / "plain.tif", tmp_path / "source.tif"
    tifffile.imwrite(plain, levels, photometric=kind, metadata=None)
    tifffile.imwrite(source, image, photometric=kind, metadata=None, iccprofile=profile.read_bytes())
    profiles = ["-ir", str(profile), "-ir", str(SRGB)]
    command = ["cctiff", "-p", *profiles, str(plain), str(tmp_path / "argyll.tif")]
    subprocess.run(command, check=True, timeout=60)
    run = Run("to_srgb", source, tmp_path / "out", engine="serial")
    assert run.summary.failed == 0
    made = tifffile.imread(tmp_path / "out" / "source.tif")
    found = np.stack([made] * 3, axis=-1) if made.ndim == 2 else made
    wanted = tifffile.imread(tmp_path / "argyll.tif")
    error = ciede2000(lab(found / np.iinfo(made.dtype).max), lab(wanted / 65535))
    assert error.mean() < 0.3
    assert np.percentile(error, 99) < 1
    assert error.max() < (1 if dtype == "uint16" else 1.5)  # the rounding to 8 bits alone reaches 1.08
