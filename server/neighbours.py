"""One feed of several workers: each tells what it answers to those of the others that have listeners.

A worker with listeners holds a connection to a socket of each other worker, in the directory that they share; while
nobody listens anywhere there is none, and nothing is made.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from server.feed import Feed

# A neighbour that takes its events slower than this many bytes behind misses some.
BEHIND_BYTES = 2**18
# Before a neighbour that is not there is asked again, and until one notices that its last listener left, in seconds.
AGAIN_SECONDS = 0.5
END = b"\n\n"


@dataclass(slots=True, eq=False)
class Neighbour:
    """Another worker, whose listeners want to be told."""

    writer: asyncio.StreamWriter

    def put(self, event: bytes) -> None:
        if self.writer.transport.get_write_buffer_size() < BEHIND_BYTES:
            self.writer.write(event)

    def close(self) -> None:
        self.writer.close()


async def share_feed(feed: Feed, directory: Path, worker: int, count: int) -> None:
    """Tell the neighbours, and hear them while somebody listens here; for ever."""
    places = [directory / f"{index}.feed" for index in range(count)]
    own = places.pop(worker)
    # Of one that was killed.
    own.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(partial(_tell, feed), own)
    try:
        async with asyncio.TaskGroup() as group:
            for place in places:
                group.create_task(_hear(feed, place))
    finally:
        server.close()
        for neighbour in tuple(feed.neighbours):
            neighbour.close()


async def _tell(feed: Feed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    neighbour = Neighbour(writer)
    feed.neighbours.add(neighbour)
    try:
        # It says nothing; this ends when it leaves.
        with contextlib.suppress(OSError):
            await reader.read()
    finally:
        feed.neighbours.discard(neighbour)
        writer.close()


async def _hear(feed: Feed, place: Path) -> None:
    while True:
        await feed.listened.wait()
        # One that is not there is starting, or starts again.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_unix_connection(place)
            try:
                while feed.listeners:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(AGAIN_SECONDS):
                            feed.hear(await reader.readuntil(END))
            finally:
                writer.close()
        await asyncio.sleep(AGAIN_SECONDS)
