"""schemathesis, on the Open Inference Protocol's OpenAPI document, finds nothing.

COALMINE_EXAMPLES says how many examples of each operation are tried.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS

from ..servers import Server

DOCUMENT = yaml.safe_load((Path(__file__).parent / "open_inference.yaml").read_text("utf-8"))
EXAMPLES = int(os.environ.get("COALMINE_EXAMPLES", "25"))
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
#: The document allows what its prose forbids (an input that the model does not have, say), so that
#: what is valid by the document may rightly be refused.
CHECKED = [check for check in CHECKS.get_all() if check.__name__ != "positive_data_acceptance"]


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_document_holds(case: Any, every: Server) -> None:
    case.call_and_validate(base_url=every.url, checks=CHECKED)
