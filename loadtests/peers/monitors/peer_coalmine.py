"""Coalmine itself, told what to do as its peers are."""

import resource
import time

import numpy as np
from session import serve, windows


def _columns(count):
    from coalmine.modeldir import Column

    return tuple(Column(name=f"f{index}") for index in range(count))


def _reference(rows, window, min_effect, *, together=()):
    import pyarrow as pa

    from coalmine_monitors.drift import build_reference, watch_together

    columns = _columns(rows.shape[1])
    extend = watch_together(columns, names=together, min_effect=min_effect)
    table = pa.table({c.name: rows[:, i] for i, c in enumerate(columns)})
    return build_reference(table, columns, window_rows=window, min_effect=min_effect, extend=extend)


def _detector(reference, window, *, run_length=100, min_effect=0.0, together=()):
    from coalmine_monitors.drift import DriftDetector

    made = _reference(reference, window, min_effect, together=together)
    return DriftDetector(made, window_rows=window, run_length=run_length)


def _feed(detector, stream):
    """Give it all of a stream, as the log gives it batches; yields after each window."""
    for _ in detector.feed(stream, np.arange(len(stream), dtype=np.float64)):
        yield detector


def evidence(reference, window):
    """The evidence that alarms are made of: a threshold on it is set by simulation."""
    detector = _detector(reference, window)

    def score(stream):
        for each in _feed(detector, stream):
            yield each.log_evidence

    return score


def _declared(*, run_length, min_effect):
    def fit(reference, window):
        detector = _detector(
            reference,
            window,
            run_length=run_length,
            min_effect=min_effect,
            together=("pca", "domain_classifier", "mmd"),
        )

        def score(stream):
            for each in _feed(detector, stream):
                yield float(each.detected)

        return score

    return fit


def merge(command):
    """Sketches of many partitions of one window, made apart, added up: is it the same verdict?"""
    from functools import reduce
    from operator import add

    from coalmine_monitors.sketches import WindowSketch

    reference = np.load(command["reference"]).astype(np.float64)
    made = _reference(reference, command["window"], 0.0)
    stream = np.load(command["stream"]).astype(np.float64)[: command["window"]]
    at = np.arange(len(stream), dtype=np.float64)
    empty = WindowSketch.empty(made.histograms)
    places = np.array_split(np.arange(len(stream)), command["partitions"])
    parts = [empty.after(stream[place], at[place]) for place in places]
    took = []
    for _ in range(command["repeats"]):
        began = time.perf_counter()
        total = reduce(add, parts)
        took.append(time.perf_counter() - began)
    same = total.state() == empty.after(stream, at).state()
    return {"seconds": sorted(took)[len(took) // 2], "same": same}


def soak(command):
    """Judge many rows; the memory in use after a tenth of them and after all."""
    import psutil

    reference = np.load(command["reference"]).astype(np.float64)
    block = np.load(command["stream"]).astype(np.float64)
    detector = _detector(reference, command["window"])
    at = np.arange(len(block), dtype=np.float64)
    process, rows, early = psutil.Process(), 0, 0
    began = time.process_time()
    while rows < command["rows"]:
        detector.update(block, at)
        rows += len(block)
        if not early and rows * 10 >= command["rows"]:
            early = process.memory_info().rss
    seconds = time.process_time() - began
    return {
        "rows": rows,
        "seconds": seconds,
        "early_mb": early / 2**20,
        "late_mb": process.memory_info().rss / 2**20,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def psi_share(command):
    """Of null windows: the share with PSI above 0.1, and above the threshold after its bias.

    The rule of 0.1 compares with as many rows as the window has, as those who use it do.
    """
    from coalmine_monitors.drift import psi

    reference = np.load(command["reference"]).astype(np.float64)
    stream = np.load(command["stream"]).astype(np.float64)
    window = command["window"]
    made = _reference(reference, window, command["min_effect"])
    bins, (against,) = made.bins, made.parts
    usual = bins.count(reference[:window])
    counts = [bins.count(rows) for rows in windows(stream, window)]
    plain = np.array([psi(each, usual, valid=bins.valid) for each in counts])
    scores = np.array([psi(each, against.coarse, valid=bins.valid) for each in counts])
    over = scores - made.usual["psi"].bias >= made.threshold
    return {
        "windows": int(scores.size),
        "plain": float((plain > 0.1).mean()),
        "corrected": float(over.mean()),
    }


def _calibrated(command):
    """The calibration of a binary model's scores, and the table of the stream."""
    import pyarrow as pa

    from coalmine.modeldir import Column, ModelCard, Tensor
    from coalmine_monitors.performance import Calibration

    classes = Column(name="answer", type="categorical", categories=("no", "yes"))
    scores = (Column(name="p_no"), Column(name="p_yes"))
    card = ModelCard(
        name="simulated",
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 1), columns=(Column(name="x"),)),),
        outputs=(
            Tensor(name="answer", datatype="INT64", shape=(-1,), columns=(classes,)),
            Tensor(name="scores", datatype="FP32", shape=(-1, 2), columns=scores),
        ),
    )

    def table(path):
        score, truth = np.load(path).T
        return pa.table({
            "answer": (score >= 0.5).astype(np.int64), "p_no": 1 - score, "p_yes": score,
            "true_label": np.where(truth > 0, "yes", "no"),
        })  # fmt: skip

    return Calibration.fit(table(command["reference"]), card), table(command["stream"])


def estimate(command):
    """CBPE: accuracy of each window of scores [rows] of a binary model, with its interval."""
    from coalmine_monitors.performance import Expected

    calibration, stream = _calibrated(command)
    chances = calibration.chances(stream)
    found = []
    for at in range(0, len(chances) - command["window"] + 1, command["window"]):
        some = chances[at : at + command["window"]]
        found.append(
            calibration.estimate(
                Expected(len(some), float(some.sum()), float((some * (1 - some)).sum()))
            )
        )
    return {"lower": [each.lower for each in found], "upper": [each.upper for each in found]}


def doubted(command):
    """The labelled rows at which the flag of the estimates turned false."""
    from coalmine_monitors.performance import EstimateCheck

    calibration, stream = _calibrated(command)
    check, rows = EstimateCheck(calibration), []
    answers = stream.column("answer").to_numpy()
    correct = (stream.column("true_label").to_numpy(zero_copy_only=False) == "yes") == answers
    seen = zip(
        calibration.chances(stream).tolist(), correct.tolist(), answers.tolist(), strict=True
    )
    for row, (chance, right, klass) in enumerate(seen):
        before = check.valid
        check.update(chance=chance, correct=right, klass=klass)
        if before and not check.valid:
            rows.append(row)
    return {"rows": rows}


if __name__ == "__main__":
    serve(
        {
            "evidence": evidence,
            "declared": _declared(run_length=100, min_effect=0.0),
            "as shipped": _declared(run_length=2000, min_effect=0.2),
        },
        {"merge": merge, "soak": soak, "psi": psi_share, "estimate": estimate, "doubted": doubted},
    )
