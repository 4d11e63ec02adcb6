"""Model folders as Hugging Face writes them: read into parameters, and written from them.

A folder holds `config.json`, weights as safetensors (one file, or shards with an index), and the files of a tokenizer.
"""

from agent_tunix.hugging_face._config import architecture_of, config_of, read_config
from agent_tunix.hugging_face._folder import fingerprint, load, read_architecture, save
from agent_tunix.hugging_face._hub import folder_of
from agent_tunix.hugging_face._tokenizer import write_tokenizer
from agent_tunix.hugging_face._weights import Weight, weights

__all__ = [
    "Weight",
    "architecture_of",
    "config_of",
    "fingerprint",
    "folder_of",
    "load",
    "read_architecture",
    "read_config",
    "save",
    "weights",
    "write_tokenizer",
]
