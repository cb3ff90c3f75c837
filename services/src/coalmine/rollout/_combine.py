"""Evidence of two sources: one counted the requests, the other knows the answers."""

from __future__ import annotations

from coalmine.rollout._evidence import ArmCounts, Block, Evidence

__all__ = ["combine"]


def combine(requests: Evidence, answers: Evidence) -> Evidence:
    """Errors, latency and shares of the one, labels, pairs and predictions of the other.

    Their blocks are of different lengths, so they stand beside each other: what a source is not
    asked about is not measured in its blocks.
    """
    blocks = [_block(b, answers=False) for b in requests.blocks]
    blocks += [_block(b, answers=True) for b in answers.blocks]
    return answers.model_copy(
        update={
            "evaluated_to": min(requests.evaluated_to, answers.evaluated_to),
            "stage_seconds": min(requests.stage_seconds, answers.stage_seconds),
            "slow_edge_us": requests.slow_edge_us,
            "tail_edge_us": requests.tail_edge_us,
            "blocks": tuple(sorted(blocks, key=lambda block: block.time)),
            "splits": requests.splits,
            "source": f"{requests.source}; answers: {answers.source}",
            "queries": (*requests.queries, *answers.queries),
        }
    )


def _block(block: Block, *, answers: bool) -> Block:
    part = _answers if answers else _requests
    return block.model_copy(
        update={"candidate": part(block.candidate), "stable": part(block.stable)}
    )


def _requests(counts: ArmCounts) -> ArmCounts:
    return counts.model_copy(update={"labelled": 0, "correct": 0, "predictions": None})


def _answers(counts: ArmCounts) -> ArmCounts:
    return counts.model_copy(update={"errors": None, "slow": None, "tail": None})
