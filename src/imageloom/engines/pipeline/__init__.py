"""Three supervised stage processes with rings of pixels in shared memory between them."""
