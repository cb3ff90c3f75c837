"""A model for a GPU: a network in the shape of ResNet-50 behind the image transformer.

Its weights are random, drawn from a seed: it shows and measures serving, and knows nothing of
pictures. `python -m coalmine.apps.image DIRECTORY` writes it, `python -m coalmine.apps.image.bench`
compares a server with ONNX Runtime in the same process. `coalmine.yaml` is the loop around it.
"""

from pathlib import Path

from coalmine.apps.image._network import CLASSES, SIDE, write_network

__all__ = ["CLASSES", "SERVICE_FILE", "SIDE", "write_network"]

#: For `coalmine up`, started beside the directory `image-model`.
SERVICE_FILE = Path(__file__).with_name("coalmine.yaml")
