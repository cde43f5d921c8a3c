"""The checkpoints that are kept: the newest ones, and the best."""

from collections.abc import Sequence


class NewestAndBest:
    """A preservation policy. Orbax passes all checkpoints, oldest first, whenever one is saved."""

    def __init__(self, keep: int, scores: dict[int, float]):
        self._keep, self._scores = keep, scores

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = best_of(steps, self._scores)
        return [step in sorted(steps)[-self._keep :] or step == best for step in steps]


def best_of(steps: Sequence[int], scores: dict[int, float]) -> int | None:
    """Returns the step with the highest score, the later of equals; None if none has one."""
    return max((step for step in steps if step in scores), key=lambda step: (scores[step], step), default=None)
