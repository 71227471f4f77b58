"""The engine zeromq: workers that connect over ZeroMQ."""
