"""Cases about a kernel's side of FUSE: what it sends, what it takes, what its callers see.

A case mounts, answers the request that it is about in its own way, and has everything else answered by a small
filesystem in memory (`tree`), so no case depends on a whole sequence of requests. Needs Python and construct alone;
what the machine or its Python lacks, a case is skipped for. Never here: filesystems that are themselves under test
(`conformance.filesystem`).
"""
