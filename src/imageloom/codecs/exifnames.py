"""The values of an EXIF block that names and texts can have, by name and number (Exif 2.32, 4.6)."""

from __future__ import annotations

FIRST = {
    "ImageDescription": 0x010E,
    "Make": 0x010F,
    "Model": 0x0110,
    "DateTime": 0x0132,
    "Artist": 0x013B,
    "Copyright": 0x8298,
}
BELOW = {
    "ExposureTime": 0x829A,
    "FNumber": 0x829D,
    "ISO": 0x8827,
    "DateTimeOriginal": 0x9003,
    "DateTimeDigitized": 0x9004,
    "FocalLength": 0x920A,
    "LensModel": 0xA434,
    "BodySerialNumber": 0xA431,
}
TAGS = (*FIRST, *BELOW)
"""The names of the values that are read."""
DATES = ("DateTime", "DateTimeOriginal", "DateTimeDigitized")
"""Those that are dates, as 2026:11:29 10:30:00."""
