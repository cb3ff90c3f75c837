"""`coalmine data`: what models were trained on, by content; works on a stack that is down, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from coalmine.cli import _data_show as show
from coalmine.cli._errors import CommandError

__all__ = ["app"]

app = typer.Typer(
    help="Training sets by their content: what is in them, how two differ, and getting one back.",
    no_args_is_help=True,
    epilog=(
        "Examples:  coalmine data list  |  coalmine data diff 3f2a 91bc  |  "
        "coalmine data export 3f2a --out training.parquet"
    ),
)

_HOME = Path(".coalmine")
_FOLDER = "data"

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="COALMINE_STATE",
        help="State directory of the stack",
        show_default="the only one below .coalmine",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for a program")]
DigestArgument = Annotated[
    str, typer.Argument(help="Digest, or its first digits, as `coalmine data list` shows it")
]


@app.command("list", epilog="Example:  coalmine data list --state .coalmine/ev-battery")
def list_(as_json: JsonOption = False, state: StateOption = None) -> None:
    """List the training sets, newest first."""
    from coalmine.retraining import list_training_sets

    found = list_training_sets(_folder(state))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show.listed(found)


@app.command("show", epilog="Example:  coalmine data show 3f2a")
def show_(digest: DigestArgument, as_json: JsonOption = False, state: StateOption = None) -> None:
    """Show what a training set holds, and what it was made from."""
    manifest = _find(digest, state)
    if as_json:
        typer.echo(json.dumps(manifest, indent=2))
    else:
        show.shown(manifest)


@app.command(epilog="Example:  coalmine data diff 3f2a 91bc")
def diff(
    first: DigestArgument,
    second: DigestArgument,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Show how one training set differs from another: rows, time, classes, columns, features."""
    from coalmine.retraining import difference

    before, after = _find(first, state), _find(second, state)
    found = difference(before["summary"], after["summary"])
    if as_json:
        digests = [before["digest"], after["digest"]]
        typer.echo(json.dumps({"digests": digests, **found}, indent=2))
    else:
        show.differing(before["digest"], after["digest"], found)


@app.command(epilog="Example:  coalmine data export 3f2a --out training.parquet")
def export(
    digest: DigestArgument,
    out: Annotated[Path, typer.Option(help="The Parquet file to write", dir_okay=False)],
    stored: Annotated[
        bool, typer.Option("--stored", help="Copy the kept rows, instead of making them again")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file")] = False,
    state: StateOption = None,
) -> None:
    """Make a training set again from its sources, check its digest, and write it to a file."""
    from coalmine.retraining import copy_stored, recreate

    if out.exists() and not force:
        raise CommandError(f"--out {out}: exists already; --force replaces it")
    manifest, data = _find(digest, state), _folder(state)
    if stored:
        copy_stored(manifest, data=data, out=out)
    else:
        typer.echo("making it again from its sources ...", err=True)
        recreate(manifest, data=data, out=out)
    typer.echo(
        f"written: {out}, {manifest['summary']['rows']} rows, {manifest['digest']}, verified"
    )


def _find(digest: str, state: Path | None) -> dict[str, Any]:
    from coalmine.retraining import find_training_set

    return find_training_set(digest, data=_folder(state))


def _folder(state: Path | None) -> Path:
    """The directory of the training sets."""
    if state is not None:
        if not (state / _FOLDER).is_dir():
            raise CommandError(f"--state {state}: there are no training sets in it")
        return state / _FOLDER
    found = [path for path in sorted(_HOME.glob(f"*/{_FOLDER}")) if path.is_dir()]
    if not found:
        raise CommandError(
            f"there are no training sets below {_HOME.absolute()}; name the state directory of a "
            "stack with --state DIR"
        )
    if len(found) > 1:
        names = ", ".join(str(path.parent) for path in found)
        raise CommandError(f"several stacks have training sets ({names}): choose with --state DIR")
    return found[0]
