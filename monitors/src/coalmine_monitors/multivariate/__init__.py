"""Statistics of all columns together, for changes that no column shows alone."""

from __future__ import annotations

from coalmine_monitors.multivariate._classifier import DomainClassifier
from coalmine_monitors.multivariate._encoder import Encoder
from coalmine_monitors.multivariate._joint import STATISTICS, Calibration, Joint, calibrate
from coalmine_monitors.multivariate._mmd import MeanDiscrepancy
from coalmine_monitors.multivariate._pca import Reconstruction
from coalmine_monitors.multivariate._statistic import Statistic

__all__ = [
    "STATISTICS",
    "Calibration",
    "DomainClassifier",
    "Encoder",
    "Joint",
    "MeanDiscrepancy",
    "Reconstruction",
    "Statistic",
    "calibrate",
]
