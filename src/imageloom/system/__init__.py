"""The operating system: cores, memory, opening files without following links, private files, printable text."""
