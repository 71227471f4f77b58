"""Tiled processing of large images: phases, boxes, scratch pixels, reading of regions, writing of pieces,
assembly."""
