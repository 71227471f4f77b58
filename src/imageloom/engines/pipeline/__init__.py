"""The engine pipeline: three supervised stage processes, connected by ring buffers in shared memory."""
