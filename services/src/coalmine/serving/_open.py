"""From what the options name to a model that can run, and its card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalmine.modeldir import MODEL_FILE, TRANSFORMER_FILE, ModelCard
from coalmine.serving._errors import ModelLoadError
from coalmine.serving._model import Runnable
from coalmine.serving._onnx import OnnxModel, runtime_options
from coalmine.serving._options import ServeOptions
from coalmine.serving._pyfunc import PyfuncModel
from coalmine.serving._python import Computing, PythonModel, is_dotted, load_predictor
from coalmine.serving._source import ModelSource, checked_card, locate, made_up_card
from coalmine.sources import SourceError, fetch

__all__ = ["Opened", "open_model", "open_predictor"]


@dataclass(frozen=True, slots=True)
class Opened:
    """A loaded model, and what is known of it."""

    model: Runnable
    card: ModelCard
    """Its name is the one in URLs."""

    version: str
    artefact: Path | None = None
    """What the model's transformer was fitted with, if that lies beside it."""

    def __post_init__(self) -> None:
        for what, text in (("name", self.card.name), ("version", self.version)):
            # Both are a part of a path; the version is a header too.
            if "/" in text or not text.isprintable():
                raise ModelLoadError(
                    f"the {what} {text!r:.100} cannot be asked for: it may hold neither '/' nor "
                    f"what is not printed; --{what} gives another"
                )


def open_model(options: ServeOptions) -> Opened:
    """Load the model that the options name; ModelLoadError says what is wrong with it."""
    if is_dotted(options.model):
        return open_predictor(load_predictor(options.model, name=options.name), options)
    try:
        fetched = fetch(options.model, cache=options.model_cache)
    except SourceError as error:
        raise ModelLoadError(str(error)) from error
    source = locate(fetched.path)
    model = _runnable(source, options)
    name = options.name or (source.card.name if source.card else fetched.name or _stem(source))
    card = checked_card(source, model.signature, name=name).model_copy(update={"name": name})
    version = options.version or fetched.version or "1"
    return Opened(model, card, version, _artefact(fetched.path))


def _runnable(source: ModelSource, options: ServeOptions) -> Runnable:
    if source.network is None:
        return PyfuncModel(source.directory)
    return OnnxModel(source.network, runtime_options(options))


def _artefact(model: Path) -> Path | None:
    """What the model's transformer was fitted with, in its directory."""
    file = model / TRANSFORMER_FILE
    return file if model.is_dir() and file.is_file() else None


def open_predictor(predictor: Computing, options: ServeOptions) -> Opened:
    """A user's predictor, which is loaded already; ModelLoadError if it declares nonsense."""
    model = PythonModel(predictor)
    card = made_up_card(model.signature, name=options.name or predictor.name)
    return Opened(model, card, options.version or "1")


def _stem(source: ModelSource) -> str:
    if source.network is None or source.network.name == MODEL_FILE:
        return source.directory.resolve().name
    return source.network.stem
