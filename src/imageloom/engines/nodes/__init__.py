"""Nodes that are offered tasks over gRPC."""
