"""Programs whose banks are kept in fewer bits."""

import numpy as np

from dynet_jax.errors import UserError
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.program import Convolution, Dense, Operation, Predictor, Program


def stored_as(program: Program, storage: str) -> Program:
    """The same program with its banks rounded.

    Raises UserError for a storage that there is not, and for one that cannot hold weights of some layer.
    """
    Bank(np.zeros((1, 1, 1, 1, 1), np.float32)).stored_as(storage)  # a static network is as strict
    return program._replace(operations=tuple(_stored_as(operation, storage) for operation in program.operations))


def _stored_as(operation: Operation, storage: str) -> Operation:
    try:
        if isinstance(operation, Convolution) and isinstance(operation.kernel, Bank):
            return operation._replace(kernel=operation.kernel.stored_as(storage))
        if isinstance(operation, Predictor | Dense):  # the engine stores them so too
            layers = (operation.output, operation.hidden) if isinstance(operation, Predictor) else ([operation.kernel],)
            for kernel, *_ in filter(None, layers):
                Bank(kernel[None]).stored_as(storage)
    except UserError as error:
        raise UserError(f"{operation.name}: {error}") from error
    return operation
