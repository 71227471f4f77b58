"""The gRPC service: a client hands jobs to a server, which divides them among nodes by a policy."""
