"""What a setting names: something public, `package.module:name`, or `file.py:name` of the user's own."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from agent_tunix.errors import ConfigError, unknown


def find(setting: str, name: str, public: Mapping[str, Any]) -> Any:
    """Returns what a setting names.

    Args:
      setting: Key of the setting, for messages.
      name: Its value: a key of `public`, `package.module:name` or `file.py:name`. Modules are also looked for in the
        current folder.
      public: What may be named without saying where it is.

    Raises:
      ConfigError: Nothing has that name, or the user's file or package could not be imported.
    """
    source, colon, attribute = name.rpartition(":")
    if not colon:
        if name.endswith(".py"):
            raise ConfigError(f"{setting} is `{name}`; say which function of the file, {name}:NAME")
        if name not in public:
            raise ConfigError(f"{unknown(setting, name, public)} Or package.module:function, file.py:function.")
        return public[name]
    if not source or not attribute:
        raise ConfigError(f"{setting} is `{name}`; write package.module:function or file.py:function")
    module = _from_file(setting, Path(source)) if source.endswith(".py") else _from_package(setting, source)
    found = getattr(module, attribute, None)
    if not callable(found) and not isinstance(found, tuple):  # a Shaping is a tuple of functions
        raise ConfigError(unknown(f"function in {source}", attribute, _public_names(module)))
    return found


def _public_names(module: ModuleType) -> Iterable[str]:
    return [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]


def _from_file(setting: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{setting} names the file {path}, which does not exist in {Path.cwd()}")
    # A name of its own: a file called math.py must not take the place of a module that others import.
    spec = importlib.util.spec_from_file_location(f"agent_tunix_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{setting} names the file {path}, which is not Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _named_failure(setting, str(path)):
        spec.loader.exec_module(module)
    # Under that name no other process can import it, so its functions travel to worker processes by value.
    cloudpickle.register_pickle_by_value(module)
    return module


def _from_package(setting: str, name: str) -> ModuleType:
    # A console script, unlike `python script.py`, does not look into the current folder.
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        with _named_failure(setting, name):
            return importlib.import_module(name)
    finally:
        if added and here in sys.path:  # the module may have changed the path itself
            sys.path.remove(here)


@contextmanager
def _named_failure(setting: str, source: str) -> Iterator[None]:
    """The user's own code may raise anything while it is imported."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{setting} could not import {source} ({reason})") from error
