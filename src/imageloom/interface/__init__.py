"""What the Python interface consists of: one image (`image`), running jobs (`running`), the options of
jobs."""
