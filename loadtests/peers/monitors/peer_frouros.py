"""Frouros: tests of one column, on windows."""

from session import serve, windows


def _each(make):
    def fit(reference, window):
        detectors = [make() for _ in range(reference.shape[1])]
        for detector, column in zip(detectors, reference.T, strict=True):
            detector.fit(X=column)

        def score(stream):
            for rows in windows(stream, window):
                yield max(
                    abs(detector.compare(X=column)[0].statistic)
                    for detector, column in zip(detectors, rows.T, strict=True)
                )

        return score

    return fit


def _ks():
    from frouros.detectors.data_drift import KSTest

    return KSTest()


def _cvm():
    from frouros.detectors.data_drift import CVMTest

    return CVMTest()


if __name__ == "__main__":
    serve({"KSTest": _each(_ks), "CVMTest": _each(_cvm)})
