"""All commands under one name."""

from __future__ import annotations

import typer

from coalmine.cli import (
    _bench,
    _data,
    _demo,
    _label,
    _reference,
    _report,
    _retrain,
    _rollout,
    _service,
    _stack,
)

__all__ = ["app"]

app = typer.Typer(
    help=(
        "Serve a model behind a canary, watch it, retrain it, and roll the new one out.\n\n"
        "Start with [bold]coalmine demo[/bold], which shows the whole loop, or "
        "[bold]coalmine up coalmine.yaml[/bold]."
    ),
    epilog="Examples:  coalmine check coalmine.yaml  |  coalmine up coalmine.yaml --port 9080",
    no_args_is_help=True,
    rich_markup_mode="rich",
    # A traceback is for the maker, not for the user: see `coalmine.cli._errors`.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_stack.register(app)
_service.register(app)
_demo.register(app)
app.add_typer(_bench.app, name="bench")
app.add_typer(_rollout.app, name="rollout")
app.add_typer(_retrain.app, name="retrain")
app.add_typer(_data.app, name="data")
app.add_typer(_reference.app, name="reference")
_label.register(app)
_report.register(app)
