"""What an XMP packet says of positions: regions with faces and names, the subject, the density on the sensor.

Regions are those of the Metadata Working Group (Guidelines 2.0, 5.9; Apple's faces are of this kind), Microsoft,
ACDSee and the IPTC (Photo Metadata 2023.1, Image Region). Positions are those of the stored image, before its
orientation is applied (Guidelines 2.0, 5.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from math import isfinite

from imageloom.codecs.placing import Placing, Span
from imageloom.codecs.subjects import moved_sides, moved_subject
from imageloom.codecs.xmp import RDF, Element, Packet, Value

_EXIF = "http://ns.adobe.com/exif/1.0/"
_MWG = "http://www.metadataworkinggroup.com/schemas/regions/"
_ACDSEE = "http://ns.acdsee.com/regions/"
_MICROSOFT = "http://ns.microsoft.com/photo/1.2/t/Region#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_APPLE = "http://ns.apple.com/faceinfo/1.0/"
_AREAS = {
    (_MWG, "Area"): "http://ns.adobe.com/xmp/sType/Area#",
    (_ACDSEE, "ALGArea"): "http://ns.acdsee.com/sType/Area#",
    (_ACDSEE, "DLYArea"): "http://ns.acdsee.com/sType/Area#",
}
"""The areas with a centre, and the namespaces of their values."""
_DIMENSIONS = {
    (_MWG, "AppliedToDimensions"): "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    (_ACDSEE, "AppliedToDimensions"): "http://ns.acdsee.com/sType/Dimensions#",
}
_KINDS = (*_AREAS, (_MICROSOFT, "Rectangle"), (_IPTC, "RegionBoundary"))
_LISTS = {
    (_MWG, "Regions"),
    (_ACDSEE, "Regions"),
    ("http://ns.microsoft.com/photo/1.2/", "RegionInfo"),
    (_IPTC, "ImageRegion"),
}
_ANGLES = {(_MWG, "Rotation"), (_APPLE, "AngleInfoRoll"), (_APPLE, "AngleInfoYaw")}
_SIDES = ("FocalPlaneXResolution", "FocalPlaneYResolution")
_MENTIONED = re.compile(rb"regions/|Region#|RegionBoundary|SubjectArea|SubjectLocation|FocalPlane[XY]")

Edit = tuple[int, int, bytes]


def are_in(packet: bytes) -> bool:
    """Whether a packet may say something of positions."""
    return _MENTIONED.search(packet) is not None


def placed(data: bytes, placing: Placing) -> tuple[bytes, bool]:
    """The packet with the positions in the output, and whether something was removed that is not there.

    Raises:
        ValueError: the packet cannot be edited.
    """
    packet = Packet(data)
    places = _Places(packet, placing)
    places.place()
    return packet.edited(places.edits), places.has_lost


class _Places:
    """The edits of one packet."""

    def __init__(self, packet: Packet, placing: Placing) -> None:
        self.packet, self.placing = packet, placing
        self.edits: list[Edit] = []
        self.has_lost = False

    def place(self) -> None:
        self._place_regions()
        if self.placing.is_turned:
            for name in _ANGLES:
                self.edits += [(value.start, value.end, b"") for value in self.packet.values(name)]
        for name, space in _DIMENSIONS.items():
            for element in self.packet.elements:
                if element.name == name:
                    self._set(self.packet.value(element, (space, "w")), self.placing.after.width)
                    self._set(self.packet.value(element, (space, "h")), self.placing.after.height)
        for element in self.packet.elements:
            if element.name in ((_EXIF, "SubjectArea"), (_EXIF, "SubjectLocation")):
                self._place_subject(element)
        self._place_sides()

    def _place_regions(self) -> None:
        """Change each region. One that is not there is removed, and a list of regions if none is left in it."""
        is_kept: dict[int, bool] = {}
        around: list[Element] = []
        for element in self.packet.elements:
            while around and around[-1].end <= element.start:
                around.pop()
            if element.name == (RDF, "li") or element.name in _LISTS:
                around.append(element)
            if any(name in element.attributes or name == element.name for name in _KINDS):
                items = [one.place for one in around if one.name == (RDF, "li")]
                region = (items or [element.place])[-1]
                is_kept[region] = is_kept.get(region, True) and self._place(element)
                for place in (one.place for one in around if one.name in _LISTS):
                    is_kept[place] = is_kept.get(place, False) or is_kept[region]
        self._remove(self.packet.elements[place] for place, kept in is_kept.items() if not kept)

    def _remove(self, values: Iterable[Element | Value]) -> None:
        for value in values:
            self.edits.append((value.start, value.end, b""))
            self.has_lost = True

    def _place(self, element: Element) -> bool:
        """Change one area. False if it is not in the output or is not known."""
        try:
            if element.name in _AREAS:
                return self._place_area(element, _AREAS[element.name])
            if element.name == (_IPTC, "RegionBoundary"):
                return self._place_boundary(element)
            return self._place_rectangle(element)
        except (ValueError, ZeroDivisionError):
            return False

    def _place_area(self, element: Element, space: str) -> bool:
        """An area with a centre: a rectangle, a circle with a diameter, or a point."""
        value = {name: self.packet.value(element, (space, name)) for name in ("x", "y", "w", "h", "d")}
        unit = self.packet.value(element, (space, "unit"))
        is_relative = unit is None or unit.text != "pixel"
        if is_relative and self.placing.keeps_parts:
            return True
        before, after = self._units(is_relative)
        x, y = _float(value["x"]) * before[0], _float(value["y"]) * before[1]
        if value["w"] and value["h"]:
            width, height = _float(value["w"]) * before[0], _float(value["h"]) * before[1]
            span = self.placing.span((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
            if span is None:
                return False
            left, top, right, bottom = span
            self._set(value["w"], (right - left) / after[0])
            self._set(value["h"], (bottom - top) / after[1])
            point = ((left + right) / 2, (top + bottom) / 2)
        else:
            there = self.placing.point(x, y)
            if there is None or (value["d"] and not self.placing.scale):
                return False
            point = there
            if value["d"]:
                scale = (self.placing.scale or 1) * min(before) / min(after)
                self._set(value["d"], _float(value["d"]) * scale)
        self._set(value["x"], point[0] / after[0])
        self._set(value["y"], point[1] / after[1])
        return True

    def _place_boundary(self, element: Element) -> bool:
        """An area of the IPTC with a left top corner. Circles and polygons are not moved."""
        value = {name: self.packet.value(element, (_IPTC, f"rb{name}")) for name in ("X", "Y", "W", "H")}
        unit = self.packet.value(element, (_IPTC, "rbUnit"))
        is_relative = unit is None or unit.text != "pixel"
        if is_relative and self.placing.keeps_parts:
            return True
        before, after = self._units(is_relative)
        x, y, width, height = (_float(each) for each in value.values())
        span = self._span(x, y, width, height, before, after)
        for each, number in zip(value.values(), span or (), strict=False):
            self._set(each, number)
        return span is not None

    def _place_rectangle(self, element: Element) -> bool:
        """A rectangle of Microsoft: left, top, width and height as parts of the image."""
        value = self.packet.value(element, (_MICROSOFT, "Rectangle"))
        assert value is not None, "it is searched for"
        if self.placing.keeps_parts:
            return True
        x, y, width, height = (_finite(text) for text in value.text.split(","))
        span = self._span(x, y, width, height, *self._units(is_relative=True))
        if span:
            text = ", ".join(map(_text, span)).encode()
            self.edits.append((value.value_start, value.value_end, text))
        return span is not None

    def _span(
        self, x: float, y: float, width: float, height: float, before: tuple[int, int], after: tuple[int, int]
    ) -> Span | None:
        """Left, top, width and height in the output of a rectangle that is given in this way."""
        found = self.placing.span(
            (x * before[0], y * before[1], (x + width) * before[0], (y + height) * before[1])
        )
        if found is None:
            return None
        left, top, right, bottom = found
        return left / after[0], top / after[1], (right - left) / after[0], (bottom - top) / after[1]

    def _units(self, is_relative: bool) -> tuple[tuple[int, int], tuple[int, int]]:
        """In pixels: the units in which positions are given, before and after."""
        before, after = self.placing.before, self.placing.after
        if is_relative:
            return (before.width, before.height), (after.width, after.height)
        return (1, 1), (1, 1)

    def _place_subject(self, element: Element) -> None:
        items = [item for item in self.packet.within(element) if item.name == (RDF, "li")]
        texts = [self.packet.data[item.body : item.ends[0]].strip() for item in items]
        found = None
        if all(text.isdigit() and len(text) < 8 for text in texts):
            found = moved_subject(tuple(map(int, texts)), self.placing)
        if found is None:
            self._remove([element])
        for item, number in zip(items, found or (), strict=False):
            self.edits.append((item.body, item.ends[0], b"%d" % number))

    def _place_sides(self) -> None:
        if self.placing.keeps_scale:
            return
        values = [next(self.packet.values((_EXIF, side)), None) for side in _SIDES]
        try:
            x, y = map(_fraction, values)
            found = moved_sides(x, y, self.placing)
        except (ValueError, ZeroDivisionError):
            found = None
        if found is None:
            self._remove(value for value in values if value)
        for value, side in zip(values, found or (), strict=False):
            if value:
                text = b"%d/%d" % (side.numerator, side.denominator)
                self.edits.append((value.value_start, value.value_end, text))

    def _set(self, value: Value | None, number: float) -> None:
        if value:
            self.edits.append((value.value_start, value.value_end, _text(number).encode()))


def _float(value: Value | None) -> float:
    if value is None:
        raise ValueError("a value is missing")
    return _finite(value.text)


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is no position")
    return number


def _fraction(value: Value | None) -> Fraction:
    if value is None or len(value.text) > 32 or "e" in value.text.lower():
        raise ValueError("it is no number of a usual length")
    return Fraction(value.text)


def _text(number: float) -> str:
    return f"{number:.6f}".rstrip("0").rstrip(".")
