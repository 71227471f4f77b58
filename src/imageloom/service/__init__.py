"""The services: jobs for clients over gRPC, and health over HTTP."""
