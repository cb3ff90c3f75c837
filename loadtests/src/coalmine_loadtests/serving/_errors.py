"""What a serving benchmark can end with.

BenchError                  `coalmine_loadtests.bench`: it cannot be run; told in words
`-- ServingBenchError       this one cannot
    |-- AbsentError         one server cannot be installed or started; the rest goes on
    `-- WrongAnswerError    one server answers what the model does not; never measured
"""

from __future__ import annotations

from coalmine_loadtests.bench import BenchError

__all__ = ["AbsentError", "ServingBenchError", "WrongAnswerError"]


class ServingBenchError(BenchError):
    """The serving benchmark cannot be run."""


class AbsentError(ServingBenchError):
    """A server cannot be installed or started here; the message says why."""


class WrongAnswerError(ServingBenchError):
    """A server's answer is an error, or differs from what ONNX Runtime computes in process."""
