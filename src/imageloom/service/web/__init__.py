"""The page and the HTTP interface of the job service."""
