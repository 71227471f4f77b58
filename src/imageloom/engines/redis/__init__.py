"""The engine redis: workers that take tasks from Redis Streams."""
