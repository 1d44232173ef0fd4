"""Talks to the service of websocket_service.py through the tunnel: `websocket_caller.py URL`. One line for each promise."""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

PATIENCE = 15


async def main(url):
    async with connect(url, max_size=None) as socket:

        async def heard():
            return await asyncio.wait_for(socket.recv(), PATIENCE)

        assert await heard() == "/room?x=1"
        print("ok path")
        await socket.send("gr\u00fc\u00df dich")
        assert await heard() == "gr\u00fc\u00df dich"
        print("ok text")
        await socket.send(bytes(range(256)))
        assert await heard() == bytes(range(256))
        print("ok binary")
        await socket.send("x" * 3_000_000)
        assert await heard() == "x" * 3_000_000
        print("ok large")
        pong = await socket.ping(b"there?")
        await asyncio.wait_for(pong, PATIENCE)
        print("ok ping")
        for at in range(200):
            await socket.send(str(at))
        assert [await heard() for _ in range(200)] == [str(at) for at in range(200)]
        print("ok many")
    assert socket.close_code == 1000, socket.close_code
    print("ok close")
    async with connect(url) as socket:
        await asyncio.wait_for(socket.recv(), PATIENCE)
        await socket.send("leave")
        try:
            await asyncio.wait_for(socket.recv(), PATIENCE)
            raise AssertionError("it was not closed")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as you wish"), closed
    print("ok closed by the service")


asyncio.run(main(sys.argv[1]))
