"""`python -m coalmine.apps.image DIRECTORY`: write the network, and say how to serve it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coalmine.apps.image import SERVICE_FILE, write_network

_SERVE = """{path} written. Serve tensors, or pictures (JPEG and PNG as BYTES):
  python -m coalmine.serving {directory} --name image --providers cuda,cpu
  python -m coalmine.serving {directory} --name image --providers cuda,cpu \\
    --transformer coalmine_transformers.image:ImageTransformer
Or the whole loop around it; `model.uri` there is file:image-model, beside which it is started:
  coalmine up {service_file}"""


def main() -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m coalmine.apps.image",
        description="Write a network in the shape of ResNet-50, with weights drawn from a seed.",
    )
    parser.add_argument("directory", type=Path, help="where model.onnx and model.yaml go")
    parser.add_argument("--seed", type=int, default=50)
    arguments = parser.parse_args()
    try:
        path = write_network(arguments.directory, seed=arguments.seed)
    except ImportError as error:
        print(f"{error}; pip install onnx", file=sys.stderr)
        return 1
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(_SERVE.format(path=path, directory=arguments.directory, service_file=SERVICE_FILE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
