"""Which worker gets which task, what was lost, and what runs again."""
