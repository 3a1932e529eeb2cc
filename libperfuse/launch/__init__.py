"""Runs an unmodified FUSE program as a client of perfused: what it does with /dev/fuse is done by perfused instead.

A seccomp filter stops the few system calls that open and mount a device (`filter`); a tracer (`tracer`) answers them.
Nothing else of the program is touched. Never here: FUSE frames, which go between perfused and the program alone.
"""
