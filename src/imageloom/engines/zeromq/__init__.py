"""Workers that connect over ZeroMQ."""
