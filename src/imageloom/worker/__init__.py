"""The code that workers of all engines run: an item, a part of a large image, and the limits of both."""
