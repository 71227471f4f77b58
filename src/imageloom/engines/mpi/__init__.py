"""The engine mpi: MPI ranks, and the supervisor of their job."""
