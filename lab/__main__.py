"""`python -m lab` is `punchlab`."""

from lab.cli import entry

entry()
