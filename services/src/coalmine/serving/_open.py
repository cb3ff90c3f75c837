"""From what the options name to a model that can run, and its card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalmine.modeldir import ModelCard
from coalmine.serving._model import Runnable
from coalmine.serving._onnx import OnnxModel, runtime_options
from coalmine.serving._options import ServeOptions
from coalmine.serving._python import Computing, PythonModel, is_dotted, load_predictor
from coalmine.serving._source import checked_card, locate, made_up_card

__all__ = ["Opened", "open_model", "open_predictor"]


@dataclass(frozen=True, slots=True)
class Opened:
    """A loaded model, and what is known of it."""

    model: Runnable
    card: ModelCard
    """Its name is the one in URLs."""

    version: str


def open_model(options: ServeOptions) -> Opened:
    """Load the model that the options name; ModelLoadError says what is wrong with it."""
    if is_dotted(options.model):
        return open_predictor(load_predictor(options.model, name=options.name), options)
    source = locate(options.model)
    network = OnnxModel(source.network, runtime_options(options))
    name = options.name or (source.card.name if source.card else _stem(source.network))
    card = checked_card(source, network.signature, name=name)
    return Opened(network, card.model_copy(update={"name": name}), options.version or "1")


def open_predictor(predictor: Computing, options: ServeOptions) -> Opened:
    """A user's predictor, which is loaded already; ModelLoadError if it declares nonsense."""
    model = PythonModel(predictor)
    card = made_up_card(model.signature, name=options.name or predictor.name)
    return Opened(model, card, options.version or "1")


def _stem(network: Path) -> str:
    return network.parent.name if network.name == "model.onnx" else network.stem
