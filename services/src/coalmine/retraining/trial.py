"""One training on a cluster: `python -m coalmine.retraining.trial`, for Katib and the Trainer.

The parameters are given, not searched for; what is learned from, and how, is as in the pipeline.
Each `loss=...` line is a number that Katib reads; the last one is the least.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from coalmine.retraining._errors import RetrainingError
from coalmine.retraining.learning import (
    FAMILIES,
    META_COLUMNS,
    TRUE_LABEL,
    read_rows,
    try_parameters,
)


def main(arguments: list[str]) -> int:
    """Train once; 0, or 2 and one line that says what is wrong."""
    options = _parser().parse_args(arguments)
    try:
        table = _newest(options.rows)
        rows = read_rows(table)
        features = tuple(name for name in rows.column_names if name not in META_COLUMNS)
        labels = rows.column(TRUE_LABEL).drop_null().unique().to_pylist()
        tried = try_parameters(
            rows,
            features=features,
            classes=tuple(sorted(labels)),
            family=options.family,
            seed=options.seed,
            given=dict(pair.split("=", 1) for pair in options.set),
            report=lambda rounds, loss: print(f"loss={loss:.9g}", flush=True),
            out=options.out,
        )
    except (RetrainingError, ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(f"loss={tried.loss:.9g}", flush=True)
    if options.out is not None:
        facts = {"loss": tried.loss, "rounds": tried.rounds, "rows": str(table)}
        (options.out / "trial.json").write_text(json.dumps(facts), encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m coalmine.retraining.trial", description=main.__doc__
    )
    parser.add_argument(
        "--rows",
        type=Path,
        required=True,
        help="a training set (Parquet), or the directory of them: the newest is taken",
    )
    parser.add_argument("--family", choices=FAMILIES, default="lightgbm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        type=_pair,
        help="a parameter of the search space; those not given have their defaults",
    )
    parser.add_argument("--out", type=Path, help="train on all rows and write model.onnx here")
    return parser


def _pair(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted NAME=VALUE")
    return text


def _newest(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("[!.]*.parquet"), key=lambda file: file.stat().st_mtime_ns)
    if not found:
        raise FileNotFoundError(f"{path}: no training set; the pipeline stores them there")
    return found[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
