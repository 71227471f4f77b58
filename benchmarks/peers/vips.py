"""A person's script for a huge image with libvips: SOURCE TARGET OPERATION [ARGUMENT ...]."""

import sys

import pyvips

source, target, operation = sys.argv[1:4]
image = pyvips.Image.new_from_file(source, access="sequential")
if operation == "blur":
    image = image.gaussblur(float(sys.argv[4]), precision="integer", min_ampl=float(sys.argv[5]))
elif operation == "canny":
    image = image.colourspace("b-w").canny(sigma=1.4)
    image = (image * 64).cast("uchar")
elif operation == "resize":
    image = image.resize(float(sys.argv[4]))
elif operation == "wide":
    image = image.resize(float(sys.argv[4]) / image.width)
if target.endswith(".tif"):
    image.tiffsave(target, tile=True, tile_width=256, tile_height=256, compression="deflate", level=6)
else:
    image.jpegsave(target, Q=90)
