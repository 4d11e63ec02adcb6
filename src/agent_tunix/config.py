"""Every default, once. `conf/*.yaml` holds differences from these only.

Keys equal the parameter names of the functions they reach; fractions are in [0, 1].
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """The policy: architecture, initialisation and which parameters train."""

    name: str = "tiny"
    weights: str | None = None
    """Where pretrained weights, their sizes and their tokenizer come from: a folder as transformers writes it,
    `hf:ORGANISATION/NAME`, `kaggle:HANDLE`, or `run:FOLDER` with a run's policy, perhaps that of `@STEP` or `@best`.
    None draws random weights in the sizes below, and a warm start trains them."""
    layers: int = 2
    width: int = 64
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 32
    mlp: int = 256
    lora_rank: int = 0
    """0 trains every parameter."""
    lora_alpha: float = 16.0
    quantize: str | None = None
    """Bits that the projections beside low-rank factors are kept in: `int8`, `int4`, or `nf4` as in QLoRA. None keeps
    those of `dtype`."""
    dtype: str = "float32"
    """What is computed in, `float32` or `bfloat16`; parameters, norms, log-probabilities and sums stay in float32."""
    remat: bool = False
    """Compute a layer's activations again for the gradient instead of keeping them: less memory, a third more work."""


@dataclass(frozen=True)
class CurriculumConfig:
    """Which prompts are drawn, where not all of them equally often."""

    by: str = "none"
    """`none`, `solve_rate` (prompts that are sometimes solved come more often) or `difficulty` (easy levels first)."""
    target: float = 0.5
    """Solve rate at which a prompt is wanted most."""
    floor: float = 0.1
    """How much any prompt is wanted at least, next to 1 at the target."""
    memory: float = 0.5
    """Share of the earlier tally that is kept when a prompt, or its level, is graded again."""
    solved: str = "answer"
    """What counts as solved: `answer`, what the strict grader accepts; or `reward`, the share of the attainable one."""
    start: float = 0.2
    """By difficulty: share of the rows, the easiest ones, that the first batch is drawn from."""
    pace: float = 0.5
    """By difficulty: share of the run's batches after which all rows are drawn from."""


@dataclass(frozen=True)
class DataConfig:
    """Where prompts and reference answers come from."""

    task: str = "sorting"
    """A built-in task, `gsm8k`, `math`, `gym`, `file` for JSONL, CSV or Parquet rows of your own, or `mixture`."""
    path: str | None = None
    """Folder of `train.jsonl` and `test.jsonl` (gsm8k; None asks the hub), or rows (file, math): a file or folder of
    JSONL, CSV or Parquet, `hf:ORGANISATION/NAME/CONFIG`, `tfds:NAME` or `kaggle:OWNER/NAME/FILE`."""
    level: int = 1
    """Difficulty of procedural tasks, from 1."""
    train_size: int = 20_000
    """Rows generated for training by procedural tasks and gym."""
    heldout_size: int = 512
    """Rows held out for evaluation; the split cannot overlap with training."""
    prompt_column: str = "prompt"
    answer_column: str = "answer"
    demonstration_column: str = "demonstration"
    malformed: str = "raise"
    """`raise` or `skip` rows that cannot be read; skipped ones are named and counted."""
    system_prompt: str | None = "auto"
    """Stands before every prompt. `auto` describes the answer format to pretrained models and is nothing for the
    built-in policy; null leaves it out."""
    few_shot: int = 0
    """Training rows with a demonstration that are shown before every prompt."""
    chat: bool = True
    """Whether prompts are written as a chat where the model has a template for it."""
    max_prompt_tokens: int = 16
    overlong_prompts: str = "raise"
    """`raise`, or `truncate` from the left; truncated ones are counted."""
    symbolic: bool = False
    """Whether answers of `math` that differ as written are also compared as mathematics, by the extra `math`."""
    gym: str | None = None
    """Name of a data set of reasoning-gym (gym)."""
    gym_arguments: dict[str, Any] = field(default_factory=dict)
    """Its settings, such as `{min_animals: 2}`."""
    sources: dict[str, Any] = field(default_factory=dict)
    """What is mixed, by name (mixture). A source takes `weight` (1 unless given; 0 only evaluates), `reward_function`
    and the settings of rows above, which are otherwise those of `data`; its `task` is its name unless given."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)


@dataclass(frozen=True)
class SamplingConfig:
    """How completions are drawn."""

    max_completion_tokens: int = 16
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0 keeps every token."""
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    """Single-token strings that end a completion besides the end-of-sequence token."""
    rollout_microbatches: int = 1
    """Parts in which a batch of prompts is sampled."""
    streams: int = 0
    """Parts of the prompts that are decoded at the same time, each in a thread. 0 chooses: two on a CPU for policies of
    up to sixteen million parameters, whose small operations leave cores idle, elsewhere one."""


@dataclass(frozen=True)
class RewardConfig:
    """The default reward, alpha * format + beta * correctness, and what is done to it."""

    alpha: float = 0.3
    """Weight of the format."""
    beta: float = 0.7
    """Weight of the exact answer."""
    kl_penalty: float = 0.0
    """Coefficient of the k1 divergence subtracted from the reward (not from the loss)."""
    shaping: str | None = None
    """A `Shaping`, or a function that makes one: a name such as `rank`, `package.module:name` or `file.py:name`."""
    run: str = "inline"
    """Where graders run: `inline`, `threads`, `processes` or `asynchronous`."""
    workers: int = 0
    """Threads, processes or coroutines at once; 0 chooses."""
    timeout_s: float | None = None
    """Seconds after which a call counts as timed out. Only a process can really be stopped."""
    memory_mb: int | None = None
    """Memory of a worker process."""
    on_failure: str = "abstain"
    """What a failed call leads to: `abstain` leaves the completion without a value, `raise` ends the run."""
    retries: int = 0
    """Further attempts before that."""


@dataclass(frozen=True)
class AdvantageConfig:
    """Which estimator, by its name in `agent_tunix.advantages`, and its arguments."""

    estimator: str = "group_normalized"
    arguments: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LossConfig:
    """The policy loss."""

    surrogate: str = "clipped"
    """`clipped` (PPO) or `truncated` (CISPO)."""
    ratio: str = "token"
    """`token`, or `sequence` (GSPO)."""
    epsilon: float = 0.2
    epsilon_high: float | None = None
    """None: equal to epsilon."""
    dual_clip: float | None = None
    """Bound on the ratio for negative advantages, above 1."""
    kl_coefficient: float = 0.0
    kl_estimator: str = "k3"
    entropy_coefficient: float = 0.0
    aggregation: str = "token_mean"
    """`token_mean`, `sequence_mean_token_mean`, `sequence_mean_token_sum` or `constant` (Dr.GRPO)."""
    mask_truncated: bool = False
    mismatch_cap: float | None = None
    """Cap of the importance weight between the policy and the sampler; None leaves it out."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine decay."""

    learning_rate: float = 1e-3
    warmup_steps: int = 10
    final_fraction: float = 0.1
    """Learning rate at the end as a fraction of its peak."""
    schedule: str = "cosine"
    """`cosine` or `constant`."""
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    mu_dtype: str = "float32"
    """What the first moment is kept in, `float32` or `bfloat16`. The second stays in float32: an update changes it by a
    thousandth, which bfloat16 would round away."""


@dataclass(frozen=True)
class WarmStartConfig:
    """The supervised start of a policy without pretrained weights."""

    steps: int = 165
    """0 leaves it out, and so do pretrained weights."""
    rows_per_batch: int = 64
    learning_rate: float = 2e-3
    warmup_steps: int = 30
    final_fraction: float = 0.1


@dataclass(frozen=True)
class TrainingConfig:
    """The GRPO loop. A step is one optimizer update, a batch one round of rollouts."""

    steps: int = 500
    prompts_per_batch: int = 64
    group_size: int = 8
    num_iterations: int = 1
    """Passes over each batch of rollouts."""
    minibatches: int = 1
    """Optimizer updates per pass; prompts are split evenly."""
    microbatches: int = 0
    """Length buckets in which the gradient of one update is accumulated. 0 chooses: on a CPU buckets of about two
    thousand tokens, which stay in its cache, divided by the streams; elsewhere a single one."""
    streams: int = 0
    """Threads that the buckets are dealt to, each with a gradient of its own. 0 chooses as for `sampling.streams`."""
    rollouts_ahead: int = 0
    """1: the next batch is sampled and graded while one is trained on, by the policy from before that update."""
    dynamic_sampling: bool = False
    """Refill groups whose unshaped rewards are all equal (DAPO)."""
    max_refills: int = 3
    reward_function: str | None = None
    """A name in `agent_tunix.rewards`, `package.module:function` or `file.py:function`; None is the default reward."""
    log_rewards: bool = False
    save_reward_analysis: bool = False
    stop_on: str = "never"
    """`error` or `warn`: save and stop when the health rules find something at least that serious; `never` goes on."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out accuracy with the strict grader, during training and afterwards."""

    every_steps: int = 50
    """0: only at the end."""
    rows: int = 512
    prompts_per_batch: int = 128
    sampled: bool = True
    """Also sample once per prompt at the training temperature."""
    patience: int = 0
    """Stop after this many evaluations without a better accuracy; 0 never stops."""


@dataclass(frozen=True)
class DiagnosticsConfig:
    """What is watched while a run goes on, and who is told."""

    every_steps: int = 0
    """Steps between checks of the health rules; 0 chooses a fortieth of the run, at least 5."""
    callback: str | None = None
    """Called with each new finding: `package.module:function` or `file.py:function`."""
    webhook: str | None = None
    """URL that each new finding is posted to, as JSON; `env:NAME` takes it from the environment."""
    report_every_steps: int = 250
    """Steps between writings of the report; 0 writes it at the end only."""


@dataclass(frozen=True)
class LoggingConfig:
    """Where numbers go besides the run folder's own files."""

    sinks: tuple[str, ...] = ("tensorboard",)
    """Any of `tensorboard`, `wandb`, `trackio` and `mlflow`, or functions `(numbers, step)` as `package.module:name` or
    `file.py:name`."""
    project: str = "agent_tunix"
    """What trackers file the run under."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When state is saved."""

    every_steps: int = 50
    keep: int = 2
    """Newest checkpoints kept; the best by held-out accuracy is kept besides."""


@dataclass(frozen=True)
class TunixConfig:
    """What only `engine=tunix` has. Devices are taken in order, those of training first."""

    rollout: str = "vanilla"
    """What samples: `vanilla`, Tunix's own sampler, or `vllm` or `sglang_jax`, which have to be installed beside it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further fields of Tunix's `RolloutConfig` by their names there, such as `rollout_vllm_hbm_utilization`."""
    train_mesh: str = "fsdp1"
    """Devices of policy and reference, such as `fsdp4xtp2`."""
    rollout_mesh: str | None = None
    """Devices that sample, behind those of training; null samples on the same ones, without another copy of the
    parameters."""


@dataclass(frozen=True)
class PaperConfig:
    """A published method, on top of the recipe that the other settings describe."""

    name: str | None = None
    """Its slug, as `agent-tunix papers list` shows it."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """Arguments of its `recipe`."""


@dataclass(frozen=True)
class Config:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tunix: TunixConfig = field(default_factory=TunixConfig)
    paper: PaperConfig = field(default_factory=PaperConfig)
    engine: str = "jax"
    """What samples and trains: `jax`, the loop of this package, or `tunix`, the cluster and the learner of Tunix."""
    mesh: str = "data1"
    """Devices along axes, joined by `x`: `data8`, `fsdp4xtp2`. Prompts are dealt over `data` and `fsdp`; parameters are
    copied over `data`, cut over `fsdp` and gathered to be used, and heads, hidden units and the vocabulary are cut over
    `tp`. Sums over devices differ in their last bits from those of one, so a run goes on over the mesh it began with;
    `resume=force` takes it to another."""
    distributed: str = "auto"
    """`auto` joins the other processes that the environment names (Cloud TPU, SLURM, Kubernetes, or the variables
    AGENT_TUNIX_COORDINATOR, AGENT_TUNIX_PROCESSES and AGENT_TUNIX_PROCESS), `never` trains alone."""
    seed: int = 0
    run_dir: str | None = None
    """Folder of the run; None makes a new one below `runs`. An existing run is resumed."""
    resume: str = "auto"
    """`auto` resumes an existing run whose config is equal, `force` also one whose config differs, `never` refuses."""
    cache_dir: str | None = None
    """Compiled programs and warm starts. None: the environment variable AGENT_TUNIX_CACHE, or `.cache/agent_tunix`."""
