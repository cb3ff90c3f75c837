"""The monitors of alibi-detect: one more process, of an interpreter of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from coalmine.spec import ServiceSpec
from coalmine.stack._errors import StackError

__all__ = ["ALIBI", "alibi_python"]

#: The part's name.
ALIBI = "alibi"
#: Names the Python that has `coalmine_alibi`: alibi-detect does not go together with KServe.
ALIBI_PYTHON = "COALMINE_ALIBI_PYTHON"


def alibi_python(service: ServiceSpec, environ: Mapping[str, str] = os.environ) -> str | None:
    """The interpreter to run them with; None if the service file asks for none.

    `StackError` if it does, and there is no such interpreter.
    """
    if not service.monitors.alibi:
        return None
    named = environ.get(ALIBI_PYTHON, "")
    fix = (
        f"make its environment with `make alibi`, and say where it is: "
        f"export {ALIBI_PYTHON}=.venv-alibi/bin/python"
    )
    if not named:
        raise StackError(f"monitors.alibi: alibi-detect runs in an environment of its own; {fix}")
    found = shutil.which(named, path=environ.get("PATH"))
    if found is None:
        raise StackError(f"monitors.alibi: {ALIBI_PYTHON}={named} is no program; {fix}")
    return os.path.abspath(found)  # not resolved: a virtual environment's is a link
