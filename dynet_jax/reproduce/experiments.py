"""The paper's experiments: the arms that each of them trains and compares."""

from collections.abc import Sequence
from typing import NamedTuple

from dynet_jax.errors import UserError, suggest
from dynet_jax.models.registry import default_arguments, model_info
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.budgets import Budget


class Experiment(NamedTuple):
    """The arms that are trained and compared.

    Attributes:
      arms: in the order of the table.
      pairs: (dynamic, its counterpart), compared seed by seed.
    """

    arms: tuple[Arm, ...]
    pairs: tuple[tuple[Arm, Arm], ...] = ()


TITLES = {
    "table1": "Table 1: dynamic networks and their bases",
    "table4": "Table 4: dynamic and fixed kernels at the same widths",
    "table5": "Table 5: how many kernels, and whose coefficients (Dy-mobile)",
    "table6": "Table 6: channel attention against dynamic kernels (Dy-ResNet18)",
    "figure5": "Fig. 5: Dy-MobileNetV2 and MobileNetV2 over widths",
}
OWN = "networks"  # the key of the experiment with other networks, which exists if some are named
OWN_TITLE = "Other networks beside their bases and fixed twins"


def experiments(budget: Budget, only: Sequence[str] = (), networks: Sequence[str] = ()) -> dict[str, Experiment]:
    """Returns {key of TITLES: experiment} for `only`, and one for other networks. Without both, all of TITLES.

    networks: names, each compared with its registered base and twin.
    Raises UserError for an unknown key or network.
    """
    only = [key.strip() for key in only]
    for key in only:
        if key not in TITLES:
            raise UserError(f"there is no experiment {key!r}; {suggest(key, TITLES)}")
    made = {
        "table1": _table1(budget),
        "table4": _table4(budget),
        "table5": _table5(budget),
        "table6": _table6(budget),
        "figure5": _figure5(budget),
    }
    chosen = {key: made[key] for key in TITLES if key in (only or ([] if networks else TITLES))}
    return chosen | ({OWN: _own(budget, networks)} if networks else {})


def _table1(budget: Budget) -> Experiment:
    resnets = (18, 50) if budget.resnet50 else (18,)
    pairs = (
        (Arm("dy_mobile", budget.width, 6), Arm("mobilenet_v2", budget.width)),
        (Arm("dy_shuffle", budget.shuffle_width, 6), Arm("shufflenet_v2", budget.shuffle_width)),
        *((Arm(f"dy_resnet{n}", budget.resnet_width, 6), Arm(f"resnet{n}", budget.resnet_width)) for n in resnets),
    )
    return _of_pairs(pairs)


def _table4(budget: Budget) -> Experiment:
    width = budget.fixed_shuffle_width
    pairs = (
        (Arm("dy_mobile", budget.width, 6), Arm("fix_mobile", budget.width)),
        (Arm("dy_shuffle", width, 6), Arm("fix_shuffle", width)),
    )
    return _of_pairs(pairs)


def _table5(budget: Budget) -> Experiment:
    own = tuple(Arm("dy_mobile", budget.width, group_size) for group_size in (1, 2, 4, 6))
    peers = tuple(Arm("dy_mobile", budget.width, 6, kind) for kind in ("condconv", "dy_cnn"))
    return Experiment(own + peers, tuple((own[-1], other) for other in (own[0], *peers)))


def _table6(budget: Budget) -> Experiment:
    attention, dynamic = (Arm("dy_resnet18", budget.resnet_width, group_size) for group_size in (1, 6))
    return Experiment((attention, dynamic), ((dynamic, attention),))


def _figure5(budget: Budget) -> Experiment:
    return _of_pairs(tuple((Arm("dy_mobilenet_v2", w, 6), Arm("mobilenet_v2", w)) for w in budget.widths))


def _own(budget: Budget, networks: Sequence[str]) -> Experiment:
    arms, pairs = [], []
    for info in map(model_info, networks):
        first, *others = (_arm(name, budget) for name in (info.name, info.base, info.twin) if name)
        arms += [first, *others]
        pairs += [(first, other) for other in others]
    return Experiment(tuple(dict.fromkeys(arms)), tuple(pairs))


def _arm(network: str, budget: Budget) -> Arm:
    return Arm(network, budget.width_of(network), default_arguments(network).get("group_size"))


def _of_pairs(pairs: tuple[tuple[Arm, Arm], ...]) -> Experiment:
    return Experiment(tuple(arm for pair in pairs for arm in pair), pairs)
