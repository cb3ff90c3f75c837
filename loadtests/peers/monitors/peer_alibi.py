"""alibi-detect: KSDrift on windows, CVMDriftOnline on rows."""

from session import serve, windows

#: Rows of the reference that the online detector simulates its thresholds with; it holds a Boolean
#: for each pair of them and of its window, per bootstrap.
ONLINE_REFERENCE = 1000


def ks_drift(reference, window):
    """The largest of the columns' distances."""
    from alibi_detect.cd import KSDrift

    detector = KSDrift(reference, p_val=0.05)

    def score(stream):
        for rows in windows(stream, window):
            found = detector.predict(rows, return_p_val=False, return_distance=True)
            yield max(found["data"]["distance"])

    return score


def cvm_online(reference, window):
    """The largest of the columns' statistics at any row of the window."""
    import numpy as np
    from alibi_detect.cd import CVMDriftOnline

    np.random.seed(0)
    few = reference[:: max(1, len(reference) // ONLINE_REFERENCE)][:ONLINE_REFERENCE]
    # Its own thresholds are not used: they are set by simulation, as every method's here.
    detector = CVMDriftOnline(
        few, ert=20, window_sizes=[min(window, 100)], n_bootstraps=1000, verbose=False
    )

    def score(stream):
        for rows in windows(stream, window):
            # The statistics [window sizes, features] of each row that is full up to there.
            found = [detector.predict(row)["data"]["test_stat"] for row in rows]
            with np.errstate(all="ignore"):
                highest = np.nanmax(np.array(found, dtype=float)) if found else np.nan
            # It keeps all rows and statistics for ever, and copies them at each: drop the old.
            _forget(detector, keep=2 * window)
            yield highest if np.isfinite(highest) else 0.0

    return score


def _forget(detector, *, keep):
    detector.test_stats = detector.test_stats[-keep:]


if __name__ == "__main__":
    serve({"KSDrift": ks_drift, "CVMDriftOnline": cvm_online})
