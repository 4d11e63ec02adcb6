"""Trains a policy: `python run_training.py data=arithmetic training.steps=100`; `--help` lists every setting."""

import sys

from agent_tunix.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main())
