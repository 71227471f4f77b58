"""Copy a folder into a bucket, or a folder of a bucket into a folder.

python -m hosts.objects /home/put/photos photos
python -m hosts.objects out /home/got/out
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import obstore
from obstore.store import S3Store

from hosts.cluster import BUCKET


def main() -> None:
    source, target = sys.argv[1:]
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    store = S3Store(BUCKET, endpoint=endpoint, client_options={"allow_http": True})
    if source.startswith("/"):
        for path in sorted(Path(source).rglob("*")):
            if path.is_file():
                obstore.put(store, f"{target}/{path.relative_to(source)}", path)
        return
    Path(target).mkdir(parents=True)
    for page in obstore.list(store, source):
        for found in page:
            file = Path(target) / found["path"].removeprefix(f"{source}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(obstore.get(store, found["path"]).bytes().to_bytes())


if __name__ == "__main__":
    main()
