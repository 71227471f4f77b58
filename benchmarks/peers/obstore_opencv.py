"""What a person would write with obstore and OpenCV: SOURCE SINK WIDTHxHEIGHT WORKERS REQUESTS, S3 to S3."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import obstore
from obstore.store import S3Store

width, height = map(int, sys.argv[3].split("x"))
cv2.setNumThreads(1)


def connect(address: str) -> S3Store:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    return S3Store(bucket, prefix=prefix, client_options={"allow_http": True})


def convert(data: bytes) -> bytes:
    image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


async def main() -> None:
    source, sink = map(connect, sys.argv[1:3])
    workers, requests = ThreadPoolExecutor(int(sys.argv[4])), asyncio.Semaphore(int(sys.argv[5]))
    loop = asyncio.get_running_loop()

    async def do(path: str) -> None:
        async with requests:
            found = await obstore.get_async(source, path)
            data = (await found.bytes_async()).to_bytes()
        data = await loop.run_in_executor(workers, convert, data)
        async with requests:
            await obstore.put_async(sink, path, data)

    async with asyncio.TaskGroup() as group:
        async for page in obstore.list(source):
            for one in page:
                group.create_task(do(one["path"]))


asyncio.run(main())
