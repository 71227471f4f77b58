"""What is kept of a run: ledger, events, measurements of each attempt, and which items were in hand."""
