"""`python -m perfused.conformance.filesystem`: the command stands among the others, in `perfused.cli.asserting`."""

import runpy

runpy.run_module("perfused.cli.asserting", run_name="__main__")
