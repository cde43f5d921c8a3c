"""Several processes as one: joining, and agreeing before they act. With one process everything here is trivial."""

import signal
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax._src import distributed  # the key-value store that `jax.distributed` starts has no public name
from jax.experimental import multihost_utils

from dynet_jax.errors import UserError, one_line

T = TypeVar("T")
HEARTBEAT_SECONDS, JOINING_SECONDS = 100, 60


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
) -> None:
    """Joins this process to the others of the run; call it before anything else of JAX.

    Without an address, JAX itself finds the others on Cloud TPU pods and under SLURM, Open MPI and Kubernetes.
    Raises UserError if they cannot be found.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with ThreadPoolExecutor(1) as pool:  # keeps the main thread free to answer signals
            pool.submit(
                jax.distributed.initialize,
                *(coordinator, processes, process),
                heartbeat_timeout_seconds=heartbeat_seconds,
            ).result()
    except (ValueError, RuntimeError, IndexError) as error:
        reason = one_line(error, limit=300)
        raise UserError(f"this process cannot join the others ({reason}); see docs/training.md") from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # JAX has replaced it


def leave() -> None:
    """Ends together with the others: the first host waits for them, because they depend on it."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def gather(text: str) -> list[str]:
    """Returns the texts of all hosts, by their index."""
    if jax.process_count() == 1:
        return [text]
    content = np.frombuffer(text.encode(errors="backslashreplace"), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(content.size))
    padded = np.zeros(max(1, int(lengths.max())), np.uint8)
    padded[: content.size] = content
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths)]


def all_hosts(true: bool) -> bool:
    """Returns whether a condition is true on every host. It is also a barrier."""
    return "" not in gather("yes" if true else "")


def together(check: Callable[[], T]) -> T:
    """Returns the result of a check that every host makes; a UserError on one is raised on all of them.

    Otherwise the host that fails would exit, and the others would wait for it.
    """
    result: Any = None
    message = ""
    try:
        result = check()
    except (UserError, OSError) as error:
        message = str(error)
    failed = [(host, text) for host, text in enumerate(gather(message)) if text]
    if not failed:
        return result
    host, text = failed[0]
    _refuse_together(text if jax.process_count() == 1 else f"host {host} of {jax.process_count()}: {text}")


def same_before_start(what: str, text: str) -> None:
    """Works like `same_everywhere`, but before JAX looks for devices, where a difference would make it wait forever."""
    if not jax.distributed.is_initialized():
        return
    store, key = distributed.global_state, f"dynet_jax/{what}"
    client: Any = store.client
    client.key_value_set(f"{key}/{store.process_id}", text)
    hosts = range(store.num_processes or 1)
    try:
        texts = [client.blocking_key_value_get(f"{key}/{host}", JOINING_SECONDS * 1000) for host in hosts]
    except jax.errors.JaxRuntimeError as error:
        reason = one_line(error, limit=300)
        raise UserError(f"this process has lost the others ({reason}); see docs/training.md") from error
    _compare(what, texts)


def same_devices(devices: Sequence[jax.Device]) -> None:
    """Raises UserError, on all hosts, unless each has the same number and kind of devices."""
    kinds = [Counter[str]() for _ in range(jax.process_count())]
    for device in devices:
        kinds[device.process_index][f"of {device.platform}, {device.device_kind}"] += 1
    texts = [", ".join(f"{count} {kind}" for kind, count in sorted(own.items())) for own in kinds]
    _compare("the number or kind of devices", texts)


def same_everywhere(what: str, text: str) -> None:
    """Raises UserError, on all hosts, unless all hosts have the same text."""
    _compare(what, gather(text))


def _compare(what: str, texts: list[str]) -> None:
    for host, other in enumerate(texts):
        if other != texts[0]:
            difference = _first_difference(texts[0], other)
            _refuse_together(f"{what} is not the same on all hosts: {difference} on host {host}")


def _refuse_together(message: str) -> NoReturn:
    """Raises UserError on all hosts.

    They leave first: if the first host, which holds the store, ended before another had read what is in it, that one
    would report a lost connection in place of the reason.
    """
    leave()
    raise UserError(message)


def _first_difference(text: str, other: str) -> str:
    pairs = zip_longest(text.splitlines(), other.splitlines(), fillvalue="nothing")
    ours, theirs = next(pair for pair in pairs if pair[0] != pair[1])
    return f"{ours.strip()[:100]} on host 0, {theirs.strip()[:100]}"
