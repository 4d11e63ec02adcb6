"""Logs of other libraries, made by running them: what `agent-tunix diagnose` is tested on.

Each half trains a tiny random model for a few steps on a CPU, without a network, and copies what the library itself
logged to `tests/fixtures/logs`. Tunix is installed with this package; TRL is no dependency of it and wants an
environment of its own::

    uv venv trl-env && uv pip install --python trl-env torch trl transformers
    trl-env/bin/python benchmarks/peer_logs.py trl
    python benchmarks/peer_logs.py tunix
"""

import argparse
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures" / "logs"
CHARACTERS = "0123456789+= "


def additions(count: int, seed: int) -> list[dict[str, str]]:
    """Sums of two numbers below 10, and their answers."""
    draw = random.Random(seed)
    pairs = [(draw.randrange(10), draw.randrange(10)) for _ in range(count)]
    return [{"prompt": f"{first}+{second}=", "answer": str(first + second)} for first, second in pairs]


def right_digit(prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """1 where the completion begins as the answer does."""
    return [float(text.strip().startswith(right[0])) for text, right in zip(completions, answer, strict=True)]


def digits_only(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """The share of digits among the characters."""
    return [sum(map(str.isdigit, text)) / max(len(text), 1) for text in completions]


def trl_tokenizer() -> Any:
    """One token per character, made in place."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {text: index for index, text in enumerate(["<pad>", "<eos>", "<unk>", *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def run_trl(output: Path, steps: int = 12) -> None:
    """Trains with TRL's `GRPOTrainer` and copies the trainer_state.json of its last checkpoint."""
    import torch
    from datasets import Dataset
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    torch.manual_seed(0)
    tokenizer = trl_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, max_position_embeddings=64, **sizes, **ids)
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=16,
            num_generations=4,
            max_completion_length=8,
            learning_rate=1e-2,
            beta=0.04,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=4,
            save_steps=steps,
            report_to="none",
            use_cpu=True,
            bf16=False,
            seed=0,
        )
        # The reference of the KL penalty is loaded from where the policy came from, so the policy has to be a folder.
        start = Path(folder) / "start"
        Qwen2ForCausalLM(config).save_pretrained(start)
        GRPOTrainer(
            model=str(start),
            reward_funcs=[right_digit, digits_only],
            args=arguments,
            train_dataset=Dataset.from_list(additions(64, seed=0)),
            eval_dataset=Dataset.from_list(additions(8, seed=1)),
            processing_class=tokenizer,
        ).train()
        output.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(folder) / f"checkpoint-{steps}" / "trainer_state.json", output / "trl_trainer_state.json")


class TunixTokenizer:
    """One token per character, in the form that Tunix asks for."""

    def encode(self, text: str, **_: Any) -> list[int]:
        """Ids of the known characters."""
        return [3 + CHARACTERS.index(character) for character in text if character in CHARACTERS]

    def decode(self, ids: Any, **_: Any) -> str:
        """Text of the ids that stand for characters."""
        known = range(3, 3 + len(CHARACTERS))
        return "".join(CHARACTERS[int(token) - 3] for token in ids if int(token) in known)

    def bos_id(self) -> int:
        """1."""
        return 1

    def eos_id(self) -> int:
        """2."""
        return 2

    def pad_id(self) -> int:
        """0."""
        return 0


def tunix_cluster(events: Path, steps: int) -> Any:
    """A policy, its reference and the sampler on one device, logging to TensorBoard."""
    import jax
    import optax
    from flax import nnx
    from tunix.models.qwen3 import model as qwen3
    from tunix.rl import rl_cluster
    from tunix.rl.rollout import base_rollout
    from tunix.sft import metrics_logger

    sizes: dict[str, Any] = {
        "num_layers": 2,
        "vocab_size": 16,
        "embed_dim": 32,
        "hidden_dim": 64,
        "num_heads": 2,
        "head_dim": 16,
    }
    config = qwen3.ModelConfig(**sizes, num_kv_heads=1, rope_theta=10000, norm_eps=1e-6, use_tied_embedding=True)
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with mesh:
        policy, reference = qwen3.Qwen3(config, rngs=nnx.Rngs(0)), qwen3.Qwen3(config, rngs=nnx.Rngs(0))
    training = rl_cluster.RLTrainingConfig(
        actor_optimizer=optax.adam(1e-3),
        eval_every_n_steps=1000,
        max_steps=steps,
        metrics_logging_options=metrics_logger.MetricsLoggerOptions(log_dir=str(events), flush_every_n_steps=1),
    )
    rollout = base_rollout.RolloutConfig(
        max_tokens_to_generate=8, max_prompt_length=8, kv_cache_size=32, temperature=1.0, top_p=1.0, top_k=None
    )
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    cluster = rl_cluster.ClusterConfig(
        role_to_mesh=dict.fromkeys(roles, mesh),
        rollout_engine="vanilla",
        training_config=training,
        rollout_config=rollout,
    )
    return rl_cluster.RLCluster(actor=policy, reference=reference, tokenizer=TunixTokenizer(), cluster_config=cluster)


def run_tunix(output: Path, steps: int = 12) -> None:
    """Trains with Tunix's own `GRPOLearner` and copies its event file."""
    import grain
    from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner

    rows = [{"prompts": row["prompt"], "answer": row["answer"]} for row in additions(256, seed=0)]
    with tempfile.TemporaryDirectory() as folder:
        learner = GRPOLearner(
            rl_cluster=tunix_cluster(Path(folder), steps),
            algo_config=GRPOConfig(num_generations=4, num_iterations=1, beta=0.04, epsilon=0.2),
            reward_fns=[right_digit, digits_only],
        )
        learner.train(grain.MapDataset.source(rows).batch(4))
        learner.rl_cluster.close()
        written = sorted(Path(folder).rglob("events.out.tfevents.*"))
        target = output / "tunix_events"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for index, file in enumerate(written):
            shutil.copy(file, target / f"events.out.tfevents.{index}.tunix")


LIBRARIES = {"trl": run_trl, "tunix": run_tunix}


def main() -> None:
    """Runs one library and writes its fixture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--output", type=Path, default=FIXTURES)
    arguments = parser.parse_args()
    LIBRARIES[arguments.library](arguments.output)


if __name__ == "__main__":
    main()
