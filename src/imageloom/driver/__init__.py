"""The flow of one run: source, window, engine, publication; and the watch, a source that does not end."""
