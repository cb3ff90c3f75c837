"""Commands on stdin, answers on stdout, one JSON object a line: the side of a detector.

`{"do": "scores", "method": NAME, "reference": FILE, "stream": FILE, "window": 500}` is answered by
a score for each whole window of the stream (the more, the more it looks like drift), and the
processor's seconds that making them took, without the fitting. Files are .npy, rows by columns.
"""

import json
import os
import resource
import sys
import time


def serve(methods, others=None):
    """`methods`: name -> fit(reference, window) -> score(stream) -> list of numbers."""
    import numpy as np

    # Libraries print; our answers must stay alone.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def scores(command):
        reference = np.load(command["reference"]).astype(np.float64)
        stream = np.load(command["stream"]).astype(np.float64)
        began = time.process_time()
        score = methods[command["method"]](reference, command["window"])
        fitted = time.process_time()
        found = [float(each) for each in score(stream)]
        return {
            "scores": found,
            "fit_seconds": fitted - began,
            "seconds": time.process_time() - fitted,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    known = {"scores": scores, **(others or {})}
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = known[command["do"]](command)
        except Exception as error:  # whatever a library raises is its result, not our end
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")


def windows(stream, window):
    """The whole windows of a stream, one after the other."""
    return (stream[at : at + window] for at in range(0, len(stream) - window + 1, window))
