"""What the command lines of `coalmine serve` and `coalmine transform` have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from coalmine.serving._bounds import BOUNDS

__all__ = ["Parser", "number"]


class Parser(argparse.ArgumentParser):
    """Mistakes are one line, as every error of the server, and another where to read more."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: {message}\n{self.prog} --help lists all options\n")


def number(option: str) -> Callable[[str], float]:
    """A type of argparse: the numbers that an option may have."""
    bound = BOUNDS[option]

    def parse(text: str) -> float:
        found: float | None = None
        try:
            found = int(text) if bound.whole else float(text)
        except ValueError:
            pass
        if found is None or not bound.holds(found):
            raise argparse.ArgumentTypeError(f"{text!r} is not {bound.what}")
        return found

    return parse
