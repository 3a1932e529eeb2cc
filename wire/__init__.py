"""The FUSE kernel protocol as data: opcodes, structs, sizes by minor, flags, tails, messages and their rendering.

Pure: nothing here opens, reads, writes, waits or logs. Import the module you need (``from wire import codec``); this
package imports none of them by itself, because some need construct and most programs do not need all.
"""
