"""What a report has to know of the devices that a program has been compiled for."""

from typing import Protocol

from dynet_jax.compiled.program import Collective


class Machine(Protocol):
    """Devices of one kind and how they are connected: a TPU slice or a node of GPUs, by published figures."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str:
        """Returns what one device is called."""
        ...

    @property
    def devices(self) -> int: ...

    @property
    def flops(self) -> float:
        """Returns the bfloat16 operations per second of a device, two per multiply-add."""
        ...

    @property
    def memory_bytes(self) -> float:
        """Returns the size of a device's memory."""
        ...

    @property
    def memory_bandwidth(self) -> float:
        """Returns the bytes per second between a device and its memory."""
        ...

    @property
    def clock(self) -> float | None:
        """Returns the cycles per second of a schedule; None where that is not known."""
        ...

    @property
    def has_schedule(self) -> bool:
        """Returns whether the compiler estimates cycles at all."""
        ...

    def exchange(self, collective: Collective) -> float:
        """Returns the seconds of an exchange between devices."""
        ...
