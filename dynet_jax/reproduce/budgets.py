"""The budgets of a plan: sizes of networks and lengths of training, by name and dataset."""

from typing import NamedTuple

import ml_collections

from dynet_jax.config.recipe import paper_recipe
from dynet_jax.config.variants import VARIANTS
from dynet_jax.data.source import find_dataset, list_datasets
from dynet_jax.errors import UserError, suggest


class Budget(NamedTuple):
    """The sizes of networks and the lengths of training.

    Attributes:
      width: of the MobileNets. resnet_width, shuffle_width: of the others (ShuffleNetV2 has 0.5, 1.0, 1.5 and 2.0).
      fixed_shuffle_width: of Dy-shuffle and Fix-shuffle in Table 4, 1.5 in the paper.
      widths: of Dy-MobileNetV2 and MobileNetV2 in Fig. 5, in ascending order; Fig. 6 uses the last.
      resnet50: whether ResNet50 and Dy-ResNet50 are included.
      epochs: by kind of dataset.
      settings: by kind of dataset, keys of the configuration that differ from the recipe.
      latency_networks, latency_sizes, latency_runs: for Table 2 and Fig. 7; sizes in pixels.
      images: number of test images that are analysed.
      for_small_images: whether networks are trained with the changes that they are registered with for small images.
    """

    width: float
    resnet_width: float
    shuffle_width: float
    fixed_shuffle_width: float
    widths: tuple[float, ...]
    resnet50: bool
    epochs: dict[str, float]
    settings: dict[str, dict[str, int]]
    latency_networks: tuple[str, ...]
    latency_sizes: tuple[int, ...]
    latency_runs: int
    images: int
    for_small_images: bool = False

    def width_of(self, network: str) -> float:
        """Returns the width of a network of this family.

        >>> BUDGETS["medium"].width_of("fix_resnet18"), BUDGETS["medium"].width_of("dy_mobile")
        (0.125, 0.25)
        """
        widths = {"ResNets": self.resnet_width, "ShuffleNets": self.shuffle_width, "MobileNets": self.width}
        return widths[family_of(network)]


def family_of(network: str) -> str:
    """Returns what kind of network this is, by its name.

    >>> family_of("fix_resnet18"), family_of("dy_shuffle"), family_of("dy_mobile")
    ('ResNets', 'ShuffleNets', 'MobileNets')
    """
    if "resnet" in network:
        return "ResNets"
    return "ShuffleNets" if "shuffle" in network else "MobileNets"


EVALUATIONS = 3  # per run, for the curves
BUDGETS = {
    "small": Budget(
        width=0.25,
        resnet_width=0.25,
        shuffle_width=0.5,
        fixed_shuffle_width=0.5,
        widths=(0.125, 0.25),
        resnet50=False,
        epochs={"digits": 3, "fashion_mnist": 1, "cifar10": 1, "folder": 3, "imagenet2012": 0.25},
        settings={
            "digits": {"data.image_size": 12, "data.resize_to": 12, "batch_size": 32},
            "folder": {"data.image_size": 64, "data.resize_to": 64},
        },
        latency_networks=("dy_mobile", "dy_resnet18"),
        latency_sizes=(128, 224, 320),
        latency_runs=10,
        images=256,
    ),
    # ResNets have the width and the length at which seeds have decided on CIFAR-10 at 32 px. MobileNets are twice as
    # wide, because at 0.125 the seeds of one network were up to nine points apart (docs/results.md).
    "medium": Budget(
        width=0.25,
        resnet_width=0.125,
        shuffle_width=0.5,
        fixed_shuffle_width=0.5,
        widths=(0.125, 0.25),
        resnet50=False,
        settings={},
        epochs={"digits": 30, "fashion_mnist": 10, "cifar10": 12, "folder": 40, "imagenet2012": 20},
        for_small_images=True,
        latency_networks=("dy_mobile", "dy_resnet18", "dy_resnet50", "dy_shuffle"),
        latency_sizes=(128, 224, 320, 448),
        latency_runs=30,
        images=1000,
    ),
    "paper": Budget(
        width=1.0,
        resnet_width=1.0,
        shuffle_width=1.0,
        fixed_shuffle_width=1.5,
        widths=(0.35, 0.5, 0.75, 1.0),
        resnet50=True,
        settings={},
        epochs={"digits": 60, "fashion_mnist": 60, "cifar10": 200, "folder": 200, "imagenet2012": 300},
        latency_networks=("dy_mobile", "dy_resnet18", "dy_resnet50", "dy_shuffle"),
        latency_sizes=(128, 224, 320, 448, 640),
        latency_runs=50,
        images=5000,
    ),
}


def budget_named(name: str) -> Budget:
    """Returns a budget. Raises UserError if there is none of that name."""
    if name not in BUDGETS:
        raise UserError(f"there is no budget {name!r}; {suggest(name, BUDGETS)}")
    return BUDGETS[name]


def dataset_kind(dataset: str, like: str | None = None) -> str:
    """Returns the dataset's key of `Budget.epochs`: `like`, or the one that it is registered with.

    Raises UserError for a dataset that no plan can use, and for an unknown key.

    >>> dataset_kind("folder:photos"), dataset_kind("folder:cifar100", like="cifar10")
    ('folder', 'cifar10')
    """
    found = find_dataset(dataset)
    if found is None or found.task != "classification" or found.like is None:
        named = {name: find_dataset(name) for name in list_datasets("classification")}
        known = [name for name, other in named.items() if other is not None and other.like is not None]
        raise UserError(
            f"the experiments need a dataset of labelled images, not {dataset!r}; {suggest(dataset, known)}"
        )
    kinds = BUDGETS["small"].epochs
    if found.like not in kinds:
        raise UserError(f"{found.name} is registered with like={found.like!r}; {suggest(found.like, kinds)}")
    if like is not None and like not in kinds:
        raise UserError(f"no budget has a length for --like={like}; {suggest(like, kinds)}")
    return like or found.like


def base_config(
    dataset: str, data_dir: str | None, budget: Budget, like: str | None = None
) -> ml_collections.ConfigDict:
    """Returns the configuration shared by all arms: the recipe at the dataset's size, with the budget's length.

    The network and the seed are filled in later. There are few checkpoints, because runs are short and numerous.
    """
    kind = dataset_kind(dataset, like)
    config = paper_recipe("")
    VARIANTS["imagenette" if kind == "folder" else kind](config)
    config.data.name, config.data.data_dir = dataset, data_dir
    config.update_from_flattened_dict(budget.settings.get(kind, {}))
    config.epochs = float(budget.epochs[kind])
    config.warmup_epochs = min(config.warmup_epochs, config.epochs / 6)
    config.keep_checkpoints = 1
    return config
