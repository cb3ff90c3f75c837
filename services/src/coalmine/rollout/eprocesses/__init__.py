"""Evidence that may be looked at as often as one likes: e-processes for comparing two arms.

Each function returns the natural logarithm of an e-value: a number that, under its null hypothesis,
exceeds 1/alpha with probability at most alpha however long one watches (Ville's inequality). Zero
means that nothing is known. All of them

- compare *within* blocks of time, so that what befalls both arms alike is evidence of nothing;
- are mixtures with fixed weights over fixed alternatives, or learn from earlier blocks only
  (but for `spread_of_events`, which says what it estimates).

Ramdas, Grünwald, Vovk, Shafer: Game-theoretic statistics and safe anytime-valid inference,
Statistical Science 38 (2023), arXiv:2210.01948.
"""

from coalmine.rollout.eprocesses._betting import log_e_mean_positive
from coalmine.rollout.eprocesses._binomial import log_e_more_events, spread_of_events
from coalmine.rollout.eprocesses._mixture import Floats
from coalmine.rollout.eprocesses._paired import log_e_candidate_better, log_e_candidate_worse
from coalmine.rollout.eprocesses._shares import log_e_shares_differ, log_e_shares_within
from coalmine.rollout.eprocesses._split import log_e_share_off
from coalmine.rollout.eprocesses._two_sample import TwoArms, log_e_rate_above, log_e_rate_below

__all__ = [
    "Floats",
    "TwoArms",
    "log_e_candidate_better",
    "log_e_candidate_worse",
    "log_e_mean_positive",
    "log_e_more_events",
    "log_e_rate_above",
    "log_e_rate_below",
    "log_e_share_off",
    "log_e_shares_differ",
    "log_e_shares_within",
    "spread_of_events",
]
