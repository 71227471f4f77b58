"""The data flow of one run: source, window of tasks in flight, engine, publication; and `watch`."""
