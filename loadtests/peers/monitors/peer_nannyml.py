"""NannyML: univariate Jensen-Shannon, PCA reconstruction, and CBPE."""

import numpy as np
from session import serve


def _frame(rows):
    import pandas

    return pandas.DataFrame(rows, columns=[f"f{index}" for index in range(rows.shape[1])])


def univariate(reference, window):
    """The largest of the columns' distances, by their own thresholds."""
    from nannyml import UnivariateDriftCalculator

    usual = _frame(reference)
    calculator = UnivariateDriftCalculator(column_names=list(usual.columns), chunk_size=window)
    calculator.fit(usual)

    def score(stream):
        found = calculator.calculate(_frame(_whole(stream, window))).filter(period="analysis")
        table = found.to_df()
        distances = [table[name]["jensen_shannon"] for name in usual.columns]
        each = [distance["value"] / distance["upper_threshold"] for distance in distances]
        return np.max(np.array(each, dtype=float), axis=0)

    return score


def reconstruction(reference, window):
    """How far the error of reconstruction is from its mean, in its spreads."""
    from nannyml import DataReconstructionDriftCalculator

    usual = _frame(reference)
    calculator = DataReconstructionDriftCalculator(
        column_names=list(usual.columns), chunk_size=window
    )
    calculator.fit(usual)

    def score(stream):
        found = calculator.calculate(_frame(_whole(stream, window))).filter(period="analysis")
        values = found.to_df()[("reconstruction_error", "value")]
        usually = calculator.result.filter(period="reference").to_df()[
            ("reconstruction_error", "value")
        ]
        return np.abs(values - usually.mean()) / usually.std()

    return score


def _whole(stream, window):
    return stream[: len(stream) // window * window]


def estimate(command):
    """CBPE: accuracy of each window of scores [rows] of a binary model, with its band."""
    import pandas
    from nannyml import CBPE

    def frame(path):
        score, truth = np.load(path).T
        answer = (score >= 0.5).astype(int)
        return pandas.DataFrame({"score": score, "answer": answer, "truth": truth.astype(int)})

    estimator = CBPE(
        metrics=["accuracy"], y_pred="answer", y_pred_proba="score", y_true="truth",
        problem_type="classification_binary", chunk_size=command["window"],
    )  # fmt: skip
    estimator.fit(frame(command["reference"]))
    table = estimator.estimate(frame(command["stream"])).filter(period="analysis").to_df()
    middle = table[("accuracy", "value")].to_numpy()
    # Its band is three sampling errors wide: two of three are the 95 % that ours is.
    error = table[("accuracy", "sampling_error")].to_numpy()
    return {"lower": (middle - 1.96 * error).tolist(), "upper": (middle + 1.96 * error).tolist()}


if __name__ == "__main__":
    serve({"univariate JS": univariate, "PCA": reconstruction}, {"estimate": estimate})
