"""What a directory of a model must hold, looked at without loading it: a download may be half of one."""

from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..output.reading import MAX_LOG_BYTES, read_json
from ..utils import UsageError


#: Of what is a tokenizer: without any of these, transformers makes one of no tokens.
TOKENIZERS = ("token*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json")


def check_weight_files(directory: Path, what: str) -> None:
    """Refuse weights that are damaged, or of which parts are missing. Headers alone are read."""
    for file in sorted(directory.glob("*.safetensors")):
        if file.exists() and not file.is_file():
            raise UsageError(f"{what}: {file.name} is no regular file. Copy or download it.")
        try:
            safe_open(file, "pt")
        except (SafetensorError, OSError) as error:
            with file.open("rb") as stream:
                is_pointer = stream.read(7) == b"version"
            mend = "It is a pointer of Git LFS: git lfs pull." if is_pointer else "Copy or download it again."
            raise UsageError(f"{what}: {file.name} is damaged: {error}. {mend}") from error
    for index in directory.glob("*.safetensors.index.json"):
        parts = set[str]()
        with suppress(KeyError, AttributeError):  # transformers tells of these
            parts = {*map(str, read_json(index, MAX_LOG_BYTES)["weight_map"].values())}
        if missing := sorted(part for part in parts if not (directory / part).is_file()):
            raise UsageError(f"{what}: {', '.join(missing)} of {index.name} is missing. Copy or download it.")


def check_tokenizer_files(directory: str | Path, what: str) -> None:
    """Refuse a directory of a whole model without a tokenizer."""
    directory = Path(directory)
    if (directory / "config.json").is_file() and not any(
        file.is_file() for pattern in TOKENIZERS for file in directory.glob(pattern)
    ):
        raise UsageError(
            f"{what} has no tokenizer. Save one there: AutoTokenizer.from_pretrained(its base model).save_pretrained."
        )
