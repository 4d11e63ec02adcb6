"""Command-line overrides and the files of `conf` become a `Config`, by Hydra.

Hydra composes; what is wrong is said in our words: one sentence with what was got, the nearest known name and the
allowed values. Nothing of Hydra's working folders or logging is used.
"""

import dataclasses
import itertools
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agent_tunix.config import Config
from agent_tunix.errors import ConfigError, nearest, unknown
from agent_tunix.recipes import from_mapping

PRIMARY = "config"
OPEN = ("advantage.arguments", "data.gym_arguments", "data.sources", "tunix.settings", "paper.numbers")
"""Mappings whose keys are not known here: of estimators, data sets and papers, names of sources, settings of Tunix."""


def conf_dir() -> Path:
    """The folder of YAML files: `conf` of the checkout, or the copy inside the installed package."""
    package = Path(__file__).resolve().parent
    checkout = package.parents[1]
    return checkout / "conf" if (checkout / "pyproject.toml").is_file() else package / "conf"


def groups(extra: Path | None = None) -> dict[str, list[str]]:
    """Config groups and their options, those of a folder of the user's own included."""
    found: dict[str, set[str]] = {}
    for folder in filter(None, (conf_dir(), extra)):
        for file in folder.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    return {group: sorted(options) for group, options in sorted(found.items())}


def keys(node: type = Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a config and its type."""
    hints = typing.get_type_hints(node)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(node):
        hint = hints[field.name]
        nested = dataclasses.is_dataclass(hint)
        found |= keys(typing.cast(type, hint), f"{prefix}{field.name}.") if nested else {prefix + field.name: hint}
    return found


def load(overrides: Sequence[str] = (), *, config_dir: Path | None = None) -> Config:
    """Composes a config from `conf` and overrides such as `data=gsm8k` or `training.steps=50`.

    Args:
      overrides: In Hydra's grammar. `+key=value` means the same as `key=value` where the key exists.
      config_dir: A folder of the user's own with further options, laid out like `conf`.

    Raises:
      ConfigError: One sentence about the first override that cannot be used.
    """
    values = OmegaConf.to_container(composed(overrides, config_dir=config_dir), resolve=True)
    return from_mapping(typing.cast(dict[str, Any], values))


def composed(overrides: Sequence[str] = (), *, config_dir: Path | None = None) -> DictConfig:
    """The same before it becomes dataclasses, for printing."""
    normalised = [_normalised(override, groups(config_dir)) for override in parsed(overrides)]
    if config_dir is not None:
        if not config_dir.is_dir():
            raise ConfigError(f"--config-dir is {config_dir}, which is not a folder")
        normalised.append(f"hydra.searchpath=[file://{config_dir.resolve()}]")
    with _hydra_of_our_own(), _in_our_words(normalised):
        return compose(PRIMARY, overrides=normalised)


def parsed(overrides: Sequence[str]) -> list[Override]:
    """Overrides by Hydra's grammar.

    Raises:
      ConfigError: If one does not follow it.
    """
    parser = OverridesParser.create()
    found = []
    for override in overrides:
        try:
            found += parser.parse_overrides([override])
        except HydraException as error:
            advice = "write key=value" if "=" not in override else "quote the value, as in 'key=\"a=b\"'"
            raise ConfigError(f"`{override}` is not an override; {advice}") from error
    return found


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Every combination of the values in overrides such as `seed=0,1` or `seed=range(3)`, in order.

    Examples:
      >>> sweep(["model=tiny", "seed=0,1"])
      [['model=tiny', 'seed=0'], ['model=tiny', 'seed=1']]
    """
    choices = []
    for override in parsed(overrides):
        if override.is_sweep_override():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([override.input_line])
    return [list(combination) for combination in itertools.product(*choices)]


def _normalised(override: Override, known: Mapping[str, list[str]]) -> str:
    """The override as Hydra wants it, or a ConfigError if its key or option does not exist."""
    text, key = override.input_line or "", override.get_key_element().lstrip("+~")
    if key.startswith("hydra"):
        return text
    value = override.value()
    if key in known:
        if isinstance(value, str) and value not in known[key]:
            raise ConfigError(unknown(f"{key}", value, known[key]))
        return text if override.is_delete() else text.lstrip("+")
    if _is_open(key):
        return "++" + text.lstrip("+")
    if "@" not in key and not _exists(key):
        raise ConfigError(_unknown_key(key, known))
    if override.is_delete():
        raise ConfigError(f"`{text}` would delete a setting; every setting has a value, so write {key}=value")
    return text.lstrip("+")


def _is_open(key: str) -> bool:
    """Whether a key is one of the open mappings, or inside one."""
    return key in OPEN or key.startswith("data.sources.") or key.rpartition(".")[0] in OPEN


def _exists(key: str) -> bool:
    return any(known == key or known.startswith(f"{key}.") for known in keys())


def _unknown_key(key: str, known: Mapping[str, list[str]]) -> str:
    """Names the nearest key of all, and lists the names at the level that was meant."""
    section = key.rpartition(".")[0]
    section = section if _exists(section) else ""
    prefix = f"{section}." if section else ""
    siblings = {name.removeprefix(prefix).split(".")[0] for name in keys() if name.startswith(prefix)}
    allowed = siblings | (set() if section else set(known))
    leaf = key.rpartition(".")[2]
    # The right name in the wrong section is the commonest mistake.
    elsewhere = [name for name in keys() if name.rpartition(".")[2] == leaf]
    near = nearest(key, elsewhere) or next(iter(elsewhere), None) or nearest(key, [*keys(), *known])
    hint = f"did you mean `{near}`? Allowed" if near else "allowed"
    where = f" in {section}" if section else ""
    return f"unknown key `{key}`; {hint}{where}: {', '.join(sorted(allowed))}."


@contextmanager
def _hydra_of_our_own() -> Iterator[None]:
    """Hydra keeps one global state; a caller's own, in a notebook or an application, is put back."""
    ConfigStore.instance().store(name="defaults", node=_thawed(OmegaConf.structured(Config)), provider="agent_tunix")
    theirs = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = theirs


def _thawed(node: DictConfig) -> DictConfig:
    """OmegaConf makes frozen dataclasses read-only, which would refuse every override."""
    OmegaConf.set_readonly(node, None)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _thawed(child)
    return node


@contextmanager
def _in_our_words(overrides: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
        key = str(getattr(cause, "full_key", None))
        given = next((override for override in overrides if override.lstrip("+").split("=")[0] == key), None)
        hint = float if key.startswith("advantage.arguments.") else keys().get(key)
        if hint is not None and given is not None:
            raise ConfigError(f"`{given.lstrip('+')}` does not fit: {key} takes {_words(hint)}") from error
        raise ConfigError(" ".join(str(error).split())) from error


def _words(hint: Any) -> str:
    """A type in words.

    Examples:
      >>> _words(int), _words(float | None)
      ('a whole number', 'a number or null')
    """
    simple = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    if hint in simple:
        return simple[hint]
    if typing.get_origin(hint) is tuple:
        return "a list such as [a,b]"
    if typing.get_origin(hint) is dict:
        return "a mapping such as {eps: 0.1}"
    return " or ".join(_words(part) for part in typing.get_args(hint))
