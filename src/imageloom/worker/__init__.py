"""What every worker runs on every engine: an item, a part of a large image, and the bounds of both."""
