"""Artefacts: what a transformer was fitted with, as JSON that a person can read and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["Strict", "read", "write"]

Content = TypeVar("Content", bound=BaseModel)


class Strict(BaseModel):
    """A part of an artefact: no unknown key, no converted type, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def read(path: Path, content: type[Content]) -> Content:
    """The artefact in a file; ValueError names the file and the key that is wrong."""
    try:
        return content.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ValueError(f"{path}: {_said(error.errors()[0])}{more}") from None


def write(path: Path, content: BaseModel) -> None:
    """Write an artefact; the same one always gives the same bytes."""
    path.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _said(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    return f"{key}: {problem['msg']}" if key else str(problem["msg"])
