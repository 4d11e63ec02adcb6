"""TRL's engine of `grpo_step.py`: its `GRPOTrainer` on a CPU, generating with transformers.

Runs in an environment of its own, which `make bench-peers` makes from peers.txt, never in that of this package. Imports
of torch stand inside the functions: the measuring process reads this file too.
"""

import functools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from grpo_workloads import (
    ADAMW,
    EPSILON,
    FIRST_ORDINARY,
    KL_COEFFICIENT,
    PAD,
    SEED,
    STOP,
    TEMPERATURE,
    Workload,
    prompt_ids,
    reward_of,
    rows_of,
    tensors_sha256,
    tokenizer_of,
)
from side_by_side import Turns

TRL_LOSS = {
    "loss_type": "grpo",
    "beta": KL_COEFFICIENT,
    "epsilon": EPSILON,
    "scale_rewards": "group",
    "num_iterations": 1,
}
PACKAGES = ("trl", "transformers", "torch", "accelerate", "tokenizers")


def run_trl(workload: Workload, steps: int, micro_batch_size: int, start: Path, folder: Path, turns: Turns) -> None:
    """TRL's trainer without checkpoints, evaluation and reports.

    A turn ends behind the optimizer's step; what the trainer does after that, such as fetching the next prompts, falls
    into the next step.

    Args:
      workload: Shapes.
      steps: Updates.
      micro_batch_size: Prompts per forward and backward pass; all of them for no accumulation.
      start: Folder with the weights to start from.
      folder: For what TRL writes.
      turns: Handshake.
    """
    settle_environment()
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    seen: dict[str, Any] = {"kl": []}
    trainer = trl_trainer(workload, steps, micro_batch_size, start, folder)
    watch(trainer, workload, seen)
    ready = describe(trainer, workload, start)
    trainer.add_callback(turn_taking(turns, ready, seen, trainer))
    trainer.train()
    turns.finish({"kl": {"first": seen["kl"][0], "last": seen["kl"][-1]}})


def settle_environment() -> None:
    """No network, no reports; before the libraries are imported, which read it."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TRL_EXPERIMENTAL_SILENCE"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def trl_trainer(workload: Workload, steps: int, micro_batch_size: int, start: Path, folder: Path) -> Any:
    """The trainer, in the fastest configuration of those tried."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    share = reward_of(workload)

    def reward(completions: Sequence[str], **_: Any) -> list[float]:
        return [share(completion) for completion in completions]

    arguments = GRPOConfig(
        output_dir=str(folder),
        max_steps=steps,
        **trl_settings(workload, micro_batch_size),
        **TRL_LOSS,
        temperature=TEMPERATURE,
        top_p=1.0,
        top_k=0,
        optim="adamw_torch_fused",
        learning_rate=ADAMW["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=ADAMW["b1"],
        adam_beta2=ADAMW["b2"],
        adam_epsilon=ADAMW["eps"],
        weight_decay=ADAMW["weight_decay"],
        max_grad_norm=ADAMW["clip_norm"],
        model_init_kwargs={"dtype": "float32"},
        shuffle_dataset=False,
        seed=SEED,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        eval_strategy="no",
        logging_steps=steps + 1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    begin = tokenizer_of(workload).decode([tokenizer_of(workload).bos_id()])
    return GRPOTrainer(
        model=str(start),
        reward_funcs=[reward],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": begin + row["prompt"]} for row in rows_of(workload)]),
        processing_class=trl_tokenizer(workload),
    )


def trl_settings(workload: Workload, micro_batch_size: int) -> dict[str, Any]:
    """Batch sizes in completions, one rollout of everything, and what is on by default and costs time or precision."""
    return {
        "per_device_train_batch_size": micro_batch_size * workload.group_size,
        "gradient_accumulation_steps": workload.prompts // micro_batch_size,
        "num_generations": workload.group_size,
        "max_completion_length": workload.completion_tokens,
        "gradient_checkpointing": False,
        "bf16": False,
    }


def trl_tokenizer(workload: Workload) -> Any:
    """The workload's tokenizer as a fast tokenizer of Hugging Face."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    own = tokenizer_of(workload)
    pad, stop = "<pad>", "<stop>"
    vocabulary = {chr(own.FIRST + index): index for index in range(workload.vocab_size)}
    vocabulary = {text: index for text, index in vocabulary.items() if index not in (own.pad_id(), own.eos_id())}
    tokenizer = Tokenizer(models.WordLevel({**vocabulary, pad: own.pad_id(), stop: own.eos_id()}, unk_token=pad))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=stop,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def watch(trainer: Any, workload: Workload, seen: dict[str, Any]) -> None:
    """Notes in `seen` what is sampled and how long it takes, and stops ragged completions where the workload says."""
    from transformers import LogitsProcessorList

    model, generate = trainer.model, trainer.model.generate
    if workload.mean_tokens:
        generate = functools.partial(generate, logits_processor=LogitsProcessorList([stopping(workload)]))

    def timed_generate(**arguments: Any) -> Any:
        started = time.perf_counter()
        output = generate(**arguments)
        seen["split"] = {"rollout_s": time.perf_counter() - started}
        return output

    score = trainer._generate_and_score_completions

    def counting_score(inputs: Any) -> dict[str, Any]:
        output = score(inputs)
        seen["tokens"] = {
            "completions": len(output["completion_ids"]),
            "prompt_tokens": int(output["prompt_mask"].sum()),
            "completion_tokens": int(output["completion_mask"].sum()),
        }
        return output

    model.generate = timed_generate
    trainer._generate_and_score_completions = counting_score


def stopping(workload: Workload) -> Callable[[Any, Any], Any]:
    """The twin of `grpo_engines.stopped`: called by `generate` with the tokens so far and the next logits."""
    import torch

    lengths = torch.from_numpy(workload.lengths)
    ids = torch.arange(workload.vocab_size)

    def stop(tokens: Any, logits: Any) -> Any:
        member = torch.arange(len(tokens)) % workload.group_size
        due = lengths[tokens[:, 1] - FIRST_ORDINARY, member]
        ends = (tokens.shape[1] - workload.prompt_tokens + 1 == due) & (due < workload.completion_tokens)
        blocked = torch.where(ends[:, None], ids != STOP, (ids == STOP) | (ids == PAD))
        return logits.masked_fill(blocked, -1e9)

    return stop


def describe(trainer: Any, workload: Workload, start: Path) -> dict[str, Any]:
    """What the engines are compared by.

    The hash is that of our weights if the model holds what was written of them and gives one prompt the same
    log-probabilities; otherwise it says what differs.
    """
    import importlib.metadata

    import torch

    origin = json.loads((start / "origin.json").read_text())
    parameters = dict(trainer.model.named_parameters())
    tensors = {name: value.detach().numpy() for name, value in parameters.items()}
    same = tensors_sha256(tensors) == origin["tensors_sha256"]
    difference = logprob_difference(trainer.model, workload, origin["logprobs"])
    ours = origin["params_sha256"] if same and difference < 1e-4 else f"same weights: {same}, off by {difference}"
    group = optimizer_of(trainer)
    return {
        "parameters": sum(value.numel() for value in parameters.values()),
        "dtypes": sorted({str(value.dtype).removeprefix("torch.") for value in parameters.values()}),
        "params_sha256": ours,
        "logprob_difference": difference,
        "optimizer": {**group, "clip_norm": trainer.args.max_grad_norm},
        "kl_coefficient": trainer.beta,
        "backend": trainer.model.device.type,
        "device": "torch cpu",
        "configuration": trl_settings(workload, trainer.args.per_device_train_batch_size // workload.group_size)
        | {
            "optimizer": trainer.args.optim.value if hasattr(trainer.args.optim, "value") else trainer.args.optim,
            "attention": trainer.model.config._attn_implementation,
            "threads": torch.get_num_threads(),
        },
        "loss": TRL_LOSS,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def optimizer_of(trainer: Any) -> dict[str, Any]:
    """What the trainer's AdamW really uses; the same for all parameters, or the difference is shown."""
    groups = trainer.create_optimizer().param_groups
    found = [
        {
            "learning_rate": group["lr"],
            "b1": group["betas"][0],
            "b2": group["betas"][1],
            "eps": group["eps"],
            "weight_decay": group["weight_decay"],
        }
        for group in groups
        if group["params"]
    ]
    return found[0] if all(group == found[0] for group in found) else {"groups": found}


def logprob_difference(model: Any, workload: Workload, expected: Sequence[float]) -> float:
    """Greatest difference of the log-probabilities that two libraries give the tokens of the first prompt."""
    import torch

    ids = torch.tensor([prompt_ids(workload)])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    found = logits.gather(1, ids[0, 1:, None])[:, 0]
    return float((found - torch.tensor(expected)).abs().max())


def turn_taking(turns: Turns, ready: dict[str, Any], seen: dict[str, Any], trainer: Any) -> Any:
    """The callback that stands still between steps."""
    from transformers import TrainerCallback

    class TurnTaking(TrainerCallback):
        """Reports when training begins and behind every step."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            turns.wait(ready)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            divergences = trainer._metrics["train"]["kl"][-args.gradient_accumulation_steps :]
            seen["kl"].append(sum(divergences) / len(divergences))
            turns.wait({"tokens": seen["tokens"], "split": seen["split"]})

    return TurnTaking()
