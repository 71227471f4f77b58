"""Records of a run: ledger, events, measurements of each attempt, and the items in progress."""
