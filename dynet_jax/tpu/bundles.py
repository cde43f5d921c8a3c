"""How many cycles a kernel takes, by the bundles that the TPU's compiler has made of it.

A bundle is what a core issues in one cycle, and a line of the compiler's dump. Loops are marked there, and all loops of
our kernels have constant lengths.
"""

import re
from collections.abc import Iterator

_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(?P<label>[A-Z]{2})?\s*:\s*(?P<depth>>*)\s*\{(?P<code>.*)")
_EXIT = re.compile(r", (\d+) /\* loop exit test")


class _Loop:
    def __init__(self, depth: int, parent: "_Loop | None"):
        self.depth, self.parent, self.inner = depth, parent, []
        self.bundles, self.rounds, self.is_grid = 0, 1, False
        if parent is not None:
            parent.inner.append(self)

    def times(self, inside=False) -> int:
        """Returns how often its bundles are run; the grid's first and last round only load and store."""
        rounds = self.rounds - 2 if inside and self.is_grid else self.rounds
        return max(1, rounds) * (self.parent.times(inside=True) if self.parent else 1)

    def by_end(self) -> Iterator["_Loop"]:
        """This loop and those inside it, in the order of their ends."""
        for loop in self.inner:
            yield from loop.by_end()
        yield self


def count_cycles(text: str) -> int:
    """Bundles, each as often as the loops around it say.

    Raises ValueError if the text has another number of loops than of tests whether they end.

    >>> count_cycles('''
    ...      0   :  { %s1 = smov 0 }
    ...    0x1 LB: > { %s2 = sphi %s1, %s9 /* phi */ }
    ...    0x2   : > { %p1 = scmp.ge.s32.totalorder %s9, 10 /* loop exit test */ }
    ...    0x3   :  {}
    ... ''')
    31
    """
    loops, rounds = [_Loop(0, None)], []
    current = loops[0]
    for line in text.splitlines():
        bundle = _BUNDLE.match(line)
        if bundle is None:
            continue
        depth = len(bundle["depth"])
        if bundle["label"] == "LB":
            loops.append(_Loop(depth, next(loop for loop in reversed(loops) if loop.depth < depth)))
        if bundle["code"] != "}":  # an empty one does not say where it is
            current = next(loop for loop in reversed(loops) if loop.depth <= depth)
        current.bundles += 1
        current.is_grid |= "iteration index, stage" in line
        rounds += map(int, _EXIT.findall(bundle["code"]))
    *ended, outside = loops[0].by_end()
    if len(ended) != len(rounds):
        raise ValueError(f"{len(ended)} loops, but {len(rounds)} tests whether one ends")
    for loop, number in zip(ended, rounds):
        loop.rounds = number
    return outside.bundles + sum(loop.bundles * loop.times() for loop in ended)
