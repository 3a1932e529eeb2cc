"""Assertions about the files, directories and permissions of any mounted filesystem, from POSIX and Linux's manual.

`run(directory)` needs root and nothing else; `python -m perfused.conformance.filesystem DIRECTORY` prints the outcome.
"""

from perfused.conformance.filesystem.result import CallResult, Failure, Result
from perfused.conformance.filesystem.runner import Unusable, run

__all__ = ["CallResult", "Failure", "Result", "Unusable", "run"]
