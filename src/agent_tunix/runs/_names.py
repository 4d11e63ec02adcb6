"""What the files of a run folder are called."""

from collections.abc import Mapping
from typing import Any

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"
SAMPLES = "samples.jsonl.zst"
SUMMARY = "summary.json"
REWARD_ANALYSIS = "reward_analysis.json"
REWARD = "reward.json"
REPORT = "report.html"
EVENTS = "tensorboard"
CHECKPOINTS = "checkpoints"

Record = Mapping[str, Any]
"""A rollout as a run stores it: prompt, completion, columns, reward, parts, outcomes, advantage and more."""

GROWING: tuple[str, ...] = (METRICS, TIMINGS, SAMPLES)
HOLDS = f"a run folder holds {CONFIG}, {METRICS}, {SAMPLES}, {SUMMARY} and {CHECKPOINTS}/"
