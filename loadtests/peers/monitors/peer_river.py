"""river: detectors of one number, one for each column, row after row."""

import math

from session import serve, windows

#: ADWIN has no statistic that a threshold could be moved on: it runs at each of these instead.
DELTAS = [10.0**-power for power in (1, 2, 3, 5, 8, 12, 18, 26, 40)]
#: KSWIN tests at every row, against a random sample: as slow as its test.
KSWIN_WINDOW, KSWIN_RECENT = 200, 60


def _scaled(reference):
    centre, spread = reference.mean(axis=0), reference.std(axis=0)
    return lambda rows: (rows - centre) / spread


def adwin(reference, window):
    """The smallest confidence of `DELTAS` at which any column's detector fires."""
    from river.drift import ADWIN

    scaled, count = _scaled(reference), reference.shape[1]
    detectors = [[ADWIN(delta=delta) for delta in DELTAS] for _ in range(count)]

    def score(stream):
        for rows in windows(scaled(stream), window):
            highest = 0.0
            for column, ladder in zip(rows.T.tolist(), detectors, strict=True):
                for delta, detector in zip(DELTAS, ladder, strict=True):
                    fired = False
                    for value in column:
                        detector.update(value)
                        fired |= detector.drift_detected
                    if fired:
                        highest = max(highest, -math.log10(delta))
            yield highest

    return score


def page_hinkley(reference, window):
    """The largest of the columns' statistics at any row of the window."""
    from river.drift import PageHinkley

    scaled = _scaled(reference)
    # Never restarted by an alarm: its statistic is what the threshold is set on.
    detectors = [PageHinkley(threshold=math.inf) for _ in range(reference.shape[1])]

    def score(stream):
        for rows in windows(scaled(stream), window):
            highest = 0.0
            for column, detector in zip(rows.T.tolist(), detectors, strict=True):
                for value in column:
                    detector.update(value)
                    up = detector._sum_increase - detector._min_increase
                    down = detector._max_decrease - detector._sum_decrease
                    highest = max(highest, up, down)
            yield highest

    return score


def kswin(reference, window):
    """The smallest of the columns' p-values at any row of the window."""
    from river.drift import KSWIN

    # At its significance nothing is an alarm, so that it is not restarted; p is what is compared.
    detectors = [
        KSWIN(alpha=0.0, window_size=KSWIN_WINDOW, stat_size=KSWIN_RECENT, seed=column)
        for column in range(reference.shape[1])
    ]

    def score(stream):
        for rows in windows(stream, window):
            lowest = 1.0
            for column, detector in zip(rows.T.tolist(), detectors, strict=True):
                for value in column:
                    detector.update(value)
                    if len(detector.window) >= KSWIN_WINDOW:
                        lowest = min(lowest, detector.p_value)
            yield -math.log10(max(lowest, 1e-300))

    return score


if __name__ == "__main__":
    serve({"ADWIN": adwin, "PageHinkley": page_hinkley, "KSWIN": kswin})
