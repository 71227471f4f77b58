"""The operating system: cores and memory, folders opened without following links, private files, safe text."""
