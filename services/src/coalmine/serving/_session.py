"""An ONNX Runtime session on the first provider that can be used, and never silently on another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime as ort

from coalmine.serving._errors import ModelLoadError
from coalmine.serving._providers import PROVIDERS, RuntimeOptions, device_error, why_not

__all__ = ["open_session", "read_session"]

_log = logging.getLogger("coalmine.serving")
_ERRORS_ONLY = 3
_Choice = Callable[[str], tuple[str, dict[str, str]]]


def read_session(path: Path) -> Any:
    """A session on the CPU that is only asked for its inputs and outputs: nothing is optimised."""
    options = _session_options(threads=1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _create(path, options, [(PROVIDERS["cpu"], {})])


def open_session(path: Path, options: RuntimeOptions, choose: _Choice) -> Any:
    """A session on the providers that `options` name, in their order.

    `choose` gives a provider's name and options for ONNX Runtime. ModelLoadError if the network
    cannot be loaded, or if none of the providers can be used, with the reason for each.
    """
    wanted = list(options.providers)
    reasons: dict[str, str] = {}
    for name in wanted.copy():
        if PROVIDERS[name] not in ort.get_available_providers():
            reasons[name] = why_not(name)
            wanted.remove(name)
    if any(name != "cpu" for name in wanted):
        _preload()
    while True:
        _refuse_fallback(path, options, wanted, reasons)
        session_options = _session_options(threads=options.threads)
        try:
            session = _create(path, session_options, [choose(name) for name in wanted])
        except ModelLoadError as error:
            if wanted[0] == "cpu":
                raise
            reasons[wanted[0]] = device_error() or str(error.__cause__).strip()
            wanted.pop(0)
            continue
        for name in wanted.copy():
            if PROVIDERS[name] not in session.get_providers():
                reasons[name] = why_not(name)
                wanted.remove(name)
        _refuse_fallback(path, options, wanted, reasons)
        _refuse_idle_gpu(path, options, session)
        for name, reason in reasons.items():
            _log.warning("%s cannot be used, %s runs on %s: %s", name, path, wanted[0], reason)
        return session


def _refuse_fallback(
    path: Path, options: RuntimeOptions, usable: list[str], reasons: dict[str, str]
) -> None:
    """ModelLoadError if what is left is not what was asked for."""
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    if options.require_gpu and not any(name != "cpu" for name in usable):
        raise ModelLoadError(f"{path}: a GPU is required, and none can be used ({why})")
    if not usable:
        names = ", ".join(reasons)
        raise ModelLoadError(
            f"{path}: {names} cannot be used, and providers names nothing else; add cpu to fall "
            f"back to it ({why})"
        )


def _refuse_idle_gpu(path: Path, options: RuntimeOptions, session: Any) -> None:
    """A GPU that gets no node of the network is a fallback too."""
    if options.require_gpu and all(
        part.ep_name == PROVIDERS["cpu"] for part in session.get_provider_graph_assignment_info()
    ):
        raise ModelLoadError(
            f"{path}: a GPU is required, but none of the network's operators can run on it"
        )


def _session_options(*, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning thread saves microseconds and burns a core that another arm could use.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = _ERRORS_ONLY
    return options


def _create(path: Path, options: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:
    try:
        # ONNX Runtime's own fallback is off: it prints to stdout and hides the reason.
        return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise ModelLoadError(f"{path}: ONNX Runtime cannot load it: {error}") from error


def _preload() -> None:
    """Load CUDA and cuDNN from their wheels, if they were installed so and not system-wide."""
    ort.set_default_logger_severity(_ERRORS_ONLY)
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
