"""Workers that take tasks from Redis Streams."""
