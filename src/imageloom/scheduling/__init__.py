"""The scheduler: it assigns tasks to workers, and repeats what was lost. Its engines and transports."""
