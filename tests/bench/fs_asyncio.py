"""The benchmark's filesystem for libperfuse, with coroutines for methods: `fs_asyncio.py MOUNTPOINT VIA`."""

import sys

from fs_libperfuse import DATA, ENTRY, FILE, OPENED, ROOT

from libperfuse import Operations, Request, Session, run
from wire import codec


class Coroutines(Operations):
    async def lookup(self, request: Request, name: bytes) -> codec.EntryOut:
        return ENTRY

    async def getattr(self, request: Request, arg: codec.GetattrIn) -> codec.AttrOut:
        return ROOT if request.nodeid == 1 else FILE

    async def open(self, request: Request, arg: codec.OpenIn) -> codec.OpenOut:
        return OPENED

    async def read(self, request: Request, arg: codec.ReadIn) -> memoryview:
        return DATA[arg.offset : arg.offset + arg.size]

    async def write(self, request: Request, arg: codec.WriteIn, data: bytes) -> int:
        DATA[arg.offset : arg.offset + arg.size] = data
        return arg.size

    async def flush(self, request: Request, arg: codec.FlushIn) -> None:
        pass

    async def release(self, request: Request, arg: codec.ReleaseIn) -> None:
        pass


if __name__ == "__main__":
    target, via = sys.argv[1:]
    options = ("allow_other", "default_permissions")
    run(Session(Coroutines(), target, via=via, options=options))  # type: ignore[arg-type]
