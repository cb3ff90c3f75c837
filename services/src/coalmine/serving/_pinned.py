"""Page-locked host memory: the GPU copies from and to it at full speed, while the CPU goes on.

The memory is numpy's, locked by the CUDA runtime that ONNX Runtime's provider has loaded. Where
there is none the arrays are ordinary ones, and copies are slower.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from coalmine.protocol import Array

__all__ = ["host_array"]

_log = logging.getLogger("coalmine.serving")
_PORTABLE = 1  # cudaHostRegisterPortable: locked for every device, not just the current one


def host_array(shape: tuple[int, ...], dtype: np.dtype[Any], *, device: int | None) -> Array:
    """Zeros; page-locked if `device` is a GPU's number. None: for the CPU."""
    array = np.zeros(shape, dtype)
    if device is None or not array.nbytes:
        return array
    runtime = _cuda_runtime()
    if runtime is None:
        return array
    address = ctypes.c_void_p(array.ctypes.data)
    status = runtime.cudaSetDevice(device) or runtime.cudaHostRegister(
        address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(_PORTABLE)
    )
    if status:
        _log.warning("%d bytes cannot be page-locked (CUDA error %d)", array.nbytes, status)
    else:
        # Views keep the array alive, so this runs when nothing can reach the memory any more.
        weakref.finalize(array, runtime.cudaHostUnregister, address).atexit = False
    return array


def _cuda_runtime() -> Any:
    """The CUDA runtime of this process, as loaded by ONNX Runtime; None: there is none."""
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    for line in mapped:
        path = line.rpartition(" ")[2]
        if Path(path).name.startswith("libcudart.so"):
            return ctypes.CDLL(path)
    return None
