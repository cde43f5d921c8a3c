"""A registry of items by name. Networks, datasets, export formats and runtimes have one each; plug-ins add to them."""

from collections.abc import Callable
from typing import Generic, TypeVar

from dynet_jax.plugins import load_plugins, unknown

Item = TypeVar("Item")


class Registry(dict[str, Item], Generic[Item]):
    """A dictionary of registered items; `everything` and `find` first import the modules that register more.

    >>> shapes = Registry("shape")
    >>> shapes.add("square", 4)
    >>> shapes.find("square")
    4
    >>> shapes.find("sqare")
    Traceback (most recent call last):
    dynet_jax.errors.UserError: unknown shape 'sqare'; did you mean square?
    """

    def __init__(self, what: str, own: Callable[[], object] = lambda: None):
        """what: 'model', for messages. own: imports the modules of this package that register items."""
        super().__init__()
        self.what, self._own = what, own

    def add(self, name: str, item: Item) -> None:
        """Adds an item. Raises ValueError if the name is taken."""
        if name in self:
            raise ValueError(
                f"{'an' if self.what[0] in 'aeiou' else 'a'} {self.what} named {name!r} is registered already"
            )
        self[name] = item

    def everything(self) -> dict[str, Item]:
        """Returns all registered items, by name. Raises UserError if a plug-in cannot be imported."""
        self._own()
        load_plugins()
        return self

    def find(self, name: str) -> Item:
        """Returns an item. Raises UserError for an unknown name, with similar ones or the missing --import."""
        if name not in self.everything():
            raise unknown(f"{self.what} {name!r}", name, self)
        return self[name]
