"""Register our classes with transformers' Auto classes, at no cost to importing us.

transformers takes seconds to load its model machinery, and ``crossdna --help`` must
not wait for it. So when transformers is not loaded yet, registration waits for the
moment somebody imports it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_REGISTRY = "crossdna.models.registry"


def register_when_transformers_loads() -> None:
    """Register now if transformers is loaded, else as soon as it is."""
    if "transformers" in sys.modules:
        importlib.import_module(_REGISTRY)
    elif not any(isinstance(finder, _TransformersFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TransformersFinder())


class _TransformersFinder(importlib.abc.MetaPathFinder):
    """Finds transformers as usual and adds the registration to its loading."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "transformers":
            return None
        # Asked for again and again by those who only want to know whether it is there.
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _RegisteringLoader(spec.loader)
                return spec
        return None


class _RegisteringLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        sys.meta_path[:] = [
            finder
            for finder in sys.meta_path
            if not isinstance(finder, _TransformersFinder)
        ]
        importlib.import_module(_REGISTRY)
