"""Run folders: their only reader and writer.

A run folder holds::

    config.yaml         the whole config the run was started with; its presence makes the folder a run
    environment.json    python, platform, package versions, commit, and every start with its command line
    metrics.jsonl       one row per step (kind "train") and per evaluation (kind "eval")
    timings.jsonl       wall-clock numbers, apart, so that metrics.jsonl is the same bytes after a resume
    samples.jsonl.zst   every rollout, one zstd frame of JSON lines per batch
    tensorboard/        the numbers of both, written by the sink of that name
    checkpoints/        written by `agent_tunix.checkpoints`
    summary.json        written at the end
    reward_analysis.json  only with training.save_reward_analysis=true
    reward.json         name and attainable range of the reward and of its parts
    report.html         written on the way, and at the end of a run that was not interrupted

The three growing files are only ever appended to, without a buffer in this process, and `RunWriter.rewind` cuts them
back to the byte offsets that a checkpoint recorded. A process killed at any moment therefore loses no row and doubles
none. (https://man7.org/linux/man-pages/man2/flock.2.html for the lock, RFC 8878 section 3 for frames.)
"""

from agent_tunix.runs._folder import default_name, new_run_dir
from agent_tunix.runs._following import Follower
from agent_tunix.runs._names import (
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    EVENTS,
    GROWING,
    METRICS,
    REPORT,
    REWARD,
    REWARD_ANALYSIS,
    SAMPLES,
    SUMMARY,
    TIMINGS,
    Record,
)
from agent_tunix.runs._reading import (
    Run,
    groups,
    is_run,
    latest,
    read_batches,
    read_config,
    read_metrics,
    read_run,
    read_samples,
    read_summary,
    read_timings,
)
from agent_tunix.runs._writing import Listener, RunWriter, open_run

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "ENVIRONMENT",
    "EVENTS",
    "GROWING",
    "METRICS",
    "REPORT",
    "REWARD",
    "REWARD_ANALYSIS",
    "SAMPLES",
    "SUMMARY",
    "TIMINGS",
    "Follower",
    "Listener",
    "Record",
    "Run",
    "RunWriter",
    "default_name",
    "groups",
    "is_run",
    "latest",
    "new_run_dir",
    "open_run",
    "read_batches",
    "read_config",
    "read_metrics",
    "read_run",
    "read_samples",
    "read_summary",
    "read_timings",
]
