"""Annotated shapes, checked in every call that a test makes.

A module that is imported after `install` has its functions and methods decorated with jaxtyping's checks where their
annotations name axes. jaxtyping's own import hook decorates all functions, and those inside of other functions anew in
every call: tracing a network then takes twice as long.
"""

import ast
import importlib.abc
import importlib.machinery
import sys
from types import CodeType

import jaxtyping

CHECKS = "__import__('jaxtyping').jaxtyped(typechecker=__import__('beartype').beartype)"


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Returns the module's code with checks, which is not kept: the package's own is in the cache of bytecode."""
        path = self.get_filename(fullname)
        return compile(with_checks(self.get_data(path).decode()), path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, packages: tuple[str, ...]):
        self.packages = packages

    def find_spec(self, fullname, path=None, target=None):
        if not any(f"{fullname}.".startswith(f"{package}.") for package in self.packages):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install(*packages: str) -> None:
    """Has the shapes in these packages and modules checked. Raises RuntimeError if one is imported already."""
    imported = sorted(set(packages) & set(sys.modules))
    if imported:
        raise RuntimeError(f"{', '.join(imported)} cannot be checked any more: imported already")
    sys.meta_path.insert(0, _Finder(packages))


def with_checks(source: str) -> ast.Module:
    """Returns a module in which functions with an annotation from jaxtyping, at its top or in a class, are checked."""
    module = ast.parse(source)
    imports = [node for node in module.body if isinstance(node, ast.ImportFrom) and node.module == jaxtyping.__name__]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    for function in (node for owner in (module, *classes) for node in owner.body):
        if isinstance(function, ast.FunctionDef) and _names_of_annotations(function) & names:
            # Innermost: a decorator such as `jax.custom_vjp` gives something that is no function.
            decorator = ast.parse(CHECKS, mode="eval").body
            function.decorator_list.append(decorator)
            for node in ast.walk(decorator):
                ast.copy_location(node, function)
    return module


def _names_of_annotations(function: ast.FunctionDef) -> set[str]:
    arguments = [node.annotation for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    annotations = [node for node in (*arguments, function.returns) if node is not None]
    return {node.id for annotation in annotations for node in ast.walk(annotation) if isinstance(node, ast.Name)}
