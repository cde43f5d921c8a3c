"""The number of classes of a network, taken from its data."""

import ml_collections

from dynet_jax.console import warn
from dynet_jax.data.contents import check_classes
from dynet_jax.data.record import Source
from dynet_jax.errors import UserError


def with_classes(
    config: ml_collections.ConfigDict, source: Source, before: int | None = None
) -> ml_collections.ConfigDict:
    """Returns the configuration with the number of classes of a source, if it does not set one.

    before: the number of outputs of the run that is resumed, if any; earlier versions allowed superfluous outputs.
    Raises UserError for another number: an output without a class has no name and is never right.
    """
    check_classes(source, config.data.name)
    count, told = len(source.class_names), config.model.num_classes
    if before is not None and before > count and told in (None, before) and config.task == "classification":
        warn(f"the resumed run has {before} outputs for {count} classes; outputs without a class are never right")
        count = told = before
    if config.model.num_classes is None:
        config = config.copy_and_resolve_references()
        config.model.num_classes = count
    elif told != count:
        harm = "lower the mean" if config.task == "segmentation" else "stay in every exported file"
        raise UserError(
            f"{config.data.name} has {count} classes but model.num_classes is {told}"
            + (f", and those without a name would {harm}" if told > count else "")
            + f"; use --config.model.num_classes={count}"
        )
    return config
