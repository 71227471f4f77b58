"""MPI ranks, and the supervisor of their job."""
