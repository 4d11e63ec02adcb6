"""From the word that says where weights are to a folder on this machine."""

from collections.abc import Callable, Mapping
from pathlib import Path

from agent_tunix.errors import ModelError

HUB_FILES = ("*.safetensors", "*.json", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt")
"""What is downloaded of a repository; PyTorch's own files and other formats are left there."""

LOCAL = "or download the model elsewhere and give its folder"


def folder_of(weights: str) -> Path:
    """The folder that holds the weights, downloaded into the hub's own cache where they are not here.

    Args:
      weights: A folder; `hf:ORGANISATION/NAME`, perhaps with `@REVISION`, for the Hugging Face hub; or `kaggle:HANDLE`
        for Kaggle, such as `kaggle:google/gemma-3/transformers/gemma-3-270m-it`.

    Raises:
      ModelError: If the folder is not there, or the hub cannot be reached, does not know the name or asks for a licence
        to be accepted first.
    """
    scheme, colon, name = weights.partition(":")
    if colon and scheme in HUBS:
        return HUBS[scheme](name)
    folder = Path(weights).expanduser()
    if not folder.is_dir():
        looks_like_a_name = weights.count("/") == 1 and not weights.startswith((".", "/", "~"))
        hint = f"did you mean hf:{weights}? G" if looks_like_a_name else "g"
        raise ModelError(
            f"model.weights={weights} is no folder; {hint}ive a folder with config.json and *.safetensors, "
            "hf:ORGANISATION/NAME or kaggle:HANDLE"
        )
    return folder


def _from_hugging_face(name: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(HUB_FILES)))
    except errors.GatedRepoError as error:
        raise ModelError(
            f"hf:{name} asks for its licence to be accepted: open https://huggingface.co/{repository} once, then set "
            f"HF_TOKEN to a token of that account, {LOCAL}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"hf:{repository} has no revision {revision}; leave @{revision} out or check it") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"hf:{repository} is not on the hub, or private; check the name, and set HF_TOKEN if it is private"
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"hf:{name} is no name of a repository; write hf:ORGANISATION/NAME") from error
    except Exception as error:  # connections fail in the many ways of the client's own libraries
        raise ModelError(_unreachable(f"hf:{name}", "the hub", error)) from error


def _from_kaggle(handle: str) -> Path:
    try:
        import kagglehub
    except ImportError as error:
        raise ModelError(f"kaggle:{handle} needs kagglehub; install it, {LOCAL}") from error
    try:
        return Path(kagglehub.model_download(handle))
    except ValueError as error:
        raise ModelError(f"kaggle:{handle} is no handle of a model: {_line(error)}") from error
    except Exception as error:  # as above
        words = f"{type(error).__name__} {error}"
        if any(sign in words for sign in ("403", "401", "Unauthenticated", "Forbidden")):
            raise ModelError(
                f"kaggle:{handle} asks for a login and its licence: accept it on kaggle.com, then set KAGGLE_USERNAME "
                f"and KAGGLE_KEY, {LOCAL}"
            ) from error
        raise ModelError(_unreachable(f"kaggle:{handle}", "Kaggle", error)) from error


HUBS: Mapping[str, Callable[[str], Path]] = {"hf": _from_hugging_face, "kaggle": _from_kaggle}
"""Words before the colon."""


def _unreachable(name: str, hub: str, error: Exception) -> str:
    return f"{name} could not be loaded from {hub} ({_line(error)}); check the connection, {LOCAL}"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
