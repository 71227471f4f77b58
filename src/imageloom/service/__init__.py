"""Jobs for clients over gRPC, and health over HTTP."""
