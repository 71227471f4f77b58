"""Which files a pattern chooses."""

from __future__ import annotations

import pytest

from imageloom.driver.patterns import Pattern
from imageloom.errors import UsageError


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("*.jpg", ["a.jpg", "sub/b.jpg", "A.JPG", "x/y/z.Jpg"], ["a.jpeg", "jpg", "a.jpg.png"]),
        ("*.JPG", ["a.jpg", "A.JPG"], ["a.png"]),
        ("sub/*.jpg", ["sub/b.jpg"], ["b.jpg", "x/sub/b.jpg", "sub/deep/b.jpg"]),
        ("/sub/*.jpg", ["sub/b.jpg"], ["x/sub/b.jpg"]),
        ("sub/**/*.jpg", ["sub/b.jpg", "sub/x/b.jpg", "sub/x/y/b.JPG"], ["b.jpg", "x/sub/b.jpg"]),
        ("sub/**", ["sub/b.jpg", "sub/x/c.png"], ["other/b.jpg"]),
        ("sub", ["sub/b.jpg", "x/sub/deep/b.jpg", "sub/"], ["subs/b.jpg", "sub.jpg"]),
        ("sub/", ["sub/b.jpg", "x/sub/b.jpg", "sub/"], ["sub"]),
        ("x/sub", ["x/sub/b.jpg"], ["y/x/sub/b.jpg", "sub/b.jpg"]),
        ("**/sub/*.png", ["sub/a.png", "x/y/sub/a.png"], ["a.png", "sub/x/a.png"]),
        ("*.{jpg,png}", ["a.jpg", "x/a.PNG"], ["a.gif"]),
        ("{a,b}*", ["a1.jpg", "b.png", "x/a.jpg", "b/c.jpg"], ["c.jpg"]),
        ("0a*.jpg", ["0a1.jpg", "x/0a.jpg"], ["a.jpg", "0.jpg"]),
        ("[a-c]?.jpg", ["b1.jpg"], ["d1.jpg", "b.jpg", "b12.jpg"]),
        ("[!a]*.jpg", ["b.jpg"], ["a.jpg"]),
        ("Caps*", ["Caps.jpg"], ["caps.jpg"]),
        (".hidden*", [".hidden.jpg"], ["hidden.jpg"]),
    ],
)
def test_what_fits(pattern: str, fitting: list[str], others: list[str]) -> None:
    chosen = Pattern(pattern)
    assert [key for key in fitting if not chosen.fits(key)] == []
    assert [key for key in others if chosen.fits(key)] == []


@pytest.mark.parametrize("pattern", ["", "/", "//", "{1..2000}.jpg"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(UsageError, match="the pattern"):
        Pattern(pattern)
