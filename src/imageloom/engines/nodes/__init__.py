"""The engine nodes: nodes that get tasks over gRPC."""
