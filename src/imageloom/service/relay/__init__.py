"""A relay: a run serves its source and its sink to workers that share no storage with it."""
