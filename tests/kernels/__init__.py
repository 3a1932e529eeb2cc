"""Runs the kernel suite on other kernels than this one: `python -m tests.kernels`, `make kernels`.

Nothing here is a test that pytest collects.
"""
