"""What is planned: a model, a batch, a mesh, and the words of the command line that say so."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from agent_tunix import buckets, overrides, recipes
from agent_tunix.config import Config, ModelConfig
from agent_tunix.errors import ConfigError, unknown
from agent_tunix.meshes import Mesh, mesh
from agent_tunix.models import BLOCK
from agent_tunix.planning._devices import DEVICES, Device
from agent_tunix.planning._sizes import Sizes, model_sizes, tunix_models

DTYPES = {"float32": 4, "bfloat16": 2}
"""Data types that are computed in, and their bytes."""
QUANTIZED = {"int8": 8, "int4": 4, "nf4": 4}
"""Bits of a quantised weight, without its share of a scale."""
SIZE_KEYS = ("name", "layers", "width", "heads", "kv_heads", "head_dim", "mlp")


class Setting(NamedTuple):
    """One training step to be planned.

    Attributes:
      name: Of the model, for people.
      sizes: Of the model.
      prompts: Per batch, over all devices.
      group_size: Completions per prompt.
      prompt_tokens: Width that prompts are padded to.
      completion_tokens: Of every completion; the most expensive case, in which none ends early.
      minibatches: Optimizer updates made of a batch, over all passes; a step is one of them.
      passes: Times that a batch is trained on.
      microbatches: Buckets of completions in which the gradient of an update is accumulated.
      rollout_parts: Parts in which a batch is sampled.
      reference: Whether log-probabilities of a reference are needed.
      lora_rank: Of low-rank factors; 0 trains everything.
      dtype: That weights and activations are computed in, a key of `DTYPES`.
      quantize: Bits of the projections beside low-rank factors, a key of `QUANTIZED`, or None for those of `dtype`.
      mu_dtype: Data type of the first moment, a key of `DTYPES`.
      remat: Whether the activations of a layer are computed again for its gradient.
      mesh: Devices.
    """

    name: str
    sizes: Sizes
    prompts: int
    group_size: int
    prompt_tokens: int
    completion_tokens: int
    minibatches: int = 1
    passes: int = 1
    microbatches: int = 1
    rollout_parts: int = 1
    reference: bool = False
    lora_rank: int = 0
    dtype: str = "bfloat16"
    quantize: str | None = None
    mu_dtype: str = "float32"
    remat: bool = False
    mesh: Mesh = Mesh()

    @property
    def width_bytes(self) -> int:
        """Bytes of a number that is computed with."""
        return DTYPES[self.dtype]

    @property
    def projection_bytes(self) -> float:
        """Bytes of a frozen projection's weight, its share of a scale included."""
        if self.quantize is None:
            return self.width_bytes
        return QUANTIZED[self.quantize] / 8 + self.width_bytes / BLOCK

    @property
    def frozen_bytes(self) -> float:
        """Bytes of everything that does not train."""
        if not self.lora_rank:
            return 0
        projections = self.sizes.projections
        return self.projection_bytes * projections + self.width_bytes * (self.sizes.parameters - projections)

    @property
    def local_prompts(self) -> float:
        """Prompts of a batch on one device."""
        return self.prompts / self.mesh.rows

    @property
    def trainable(self) -> int:
        """Parameters that the optimizer sees."""
        return self.sizes.adapters(self.lora_rank) if self.lora_rank else self.sizes.parameters


def cut(setting: Setting) -> buckets.Cut:
    """How the prompts and the groups of an update are cut into microbatches.

    Args:
      setting: The step.

    Raises:
      ConfigError: If they cannot be cut that way.
    """
    prompts = setting.prompts // setting.minibatches
    sizes = setting.group_size, setting.prompt_tokens, setting.completion_tokens
    try:
        return buckets.cut_of(setting.microbatches, prompts, *sizes)
    except ValueError as error:
        raise ConfigError(f"training.microbatches is {setting.microbatches}: {error}") from error


def check(setting: Setting) -> Setting:
    """The same, if its batch and heads can be dealt out over its mesh.

    Args:
      setting: The step.

    Raises:
      ConfigError: One sentence about the first number that does not divide.
    """
    rows, tp = setting.mesh.rows, setting.mesh.tp
    for axes, size, number, what in (
        ("data x fsdp", rows, setting.prompts // setting.rollout_parts, "prompts of a rollout part"),
        (
            "data x fsdp",
            rows,
            setting.prompts // setting.minibatches // cut(setting).prompts,
            "prompts of a microbatch",
        ),
        ("tp", tp, setting.sizes.heads, f"query heads of {setting.name}"),
    ):
        if number % size:
            raise ConfigError(f"mesh has {axes} = {size}, which does not divide {number} {what}; choose a divisor")
    return setting


def read(words: Sequence[str], *, config_dir: Path | None = None) -> tuple[Setting, list[Device]]:
    """The setting and the devices that words of the command line mean.

    Args:
      words: Overrides as `train` takes them, `mesh=` and `device=`; `model=` may also name a model that Tunix knows.
      config_dir: A folder of further options, as `train` takes it.

    Raises:
      ConfigError: One sentence about the first word that cannot be used.
    """
    own, rest = _split(words)
    devices, axes = _devices(own["device"]), mesh(own["mesh"])
    model = next((word.partition("=")[2] for word in rest if word.startswith("model=")), "")
    options = overrides.groups(config_dir).get("model", [])
    if model and model not in options:
        if model not in tunix_models():
            raise ConfigError(unknown("model", model, [*options, *tunix_models()]))
        rest = [word for word in rest if word != f"model={model}"]
    config = overrides.load(rest, config_dir=config_dir)
    name = config.model.name if model in ("", *options) else model
    if name in tunix_models():
        _refuse_sizes(rest, name)
    return check(_setting(config, name, axes)), devices


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Words of the planner's own, and those that compose a config."""
    own = {"mesh": "data1", "device": "all"}
    rest = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in own:
            own[key] = value
        else:
            rest.append(word)
    return own, rest


def _refuse_sizes(words: Sequence[str], model: str) -> None:
    """Sizes come from Tunix or from the words, never from both."""
    for word in words:
        if word.partition("=")[0] in [f"model.{key}" for key in SIZE_KEYS]:
            raise ConfigError(f"`{word}` changes a size of {model}, which is Tunix's; leave out one of the two")


def _devices(name: str) -> list[Device]:
    if name == "all":
        return list(DEVICES.values())
    if name not in DEVICES:
        raise ConfigError(unknown("device", name, ["all", *DEVICES]))
    return [DEVICES[name]]


def _setting(config: Config, name: str, axes: Mesh) -> Setting:
    training = config.training
    return Setting(
        name=name,
        sizes=model_sizes(name) if name in tunix_models() else _config_sizes(config.model),
        prompts=training.prompts_per_batch,
        group_size=training.group_size,
        prompt_tokens=config.data.max_prompt_tokens,
        completion_tokens=config.sampling.max_completion_tokens,
        minibatches=training.minibatches,
        passes=training.num_iterations,
        microbatches=training.microbatches or 1,
        rollout_parts=config.sampling.rollout_microbatches,
        reference=recipes.recipe(config).needs_reference,
        lora_rank=config.model.lora_rank,
        dtype=config.model.dtype,
        quantize=config.model.quantize,
        mu_dtype=config.optimizer.mu_dtype,
        remat=config.model.remat,
        mesh=axes,
    )


def _config_sizes(model: ModelConfig) -> Sizes:
    """The built-in policy, with the vocabulary of the character tokenizer."""
    from agent_tunix.tokenizers import CharacterTokenizer

    return Sizes(
        vocab_size=CharacterTokenizer().vocab_size,
        layers=model.layers,
        width=model.width,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        mlp=model.mlp,
        vectors=2 * model.width + 2 * model.head_dim,
    )
