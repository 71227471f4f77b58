"""Large images encoded piece by piece, one file for each format.

An encoder cuts an image into pieces and compresses each alone, in any process; a writer joins what was compressed.
The bytes of a file depend on its pixels, its size and its encoder's options, and on nothing else.
"""
