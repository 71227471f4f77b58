"""`python -m imageloom`."""

from imageloom.cli import main

main()
