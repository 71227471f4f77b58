"""Large images in tiles: phases, boxes, scratch pixels, regions read, pieces written, assembly."""
