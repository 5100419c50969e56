"""The small files that travel with weights: vocabulary, generation_config.json, the original's code, its config.json.

Our own config.json describes a run, so the original's lies beside it under another name.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from qwenvl_jax.config import Run
from qwenvl_jax.processing.encoders import SPECIALS
from qwenvl_jax.processing.tokenizer import (
    BYTES,
    EMBEDDED,
    JSON_VOCABULARY_FILES,
    VOCABULARY_FILE,
    Tokenizer,
    load_tokenizer,
)

ORIGINAL_CONFIG = "original_config.json"
GENERATION_CONFIG = "generation_config.json"
PATTERNS = ("*.tiktoken", "*.py", "*.json", "*.jinja", "*.txt", "*.md", "*.ttf", "LICENSE*", "NOTICE*")
OWN = ("config.json", ORIGINAL_CONFIG, "report.json")
"""Names that mean something else on the other side."""


def carry(source: Path, target: Path) -> list[str]:
    """Copies the small files of a folder; returns their names. Weights and their indexes stay."""
    found = {file for pattern in PATTERNS for file in source.glob(pattern) if file.is_file()}
    names = sorted(f.name for f in found if f.name not in OWN and not f.name.endswith(".index.json"))
    for name in names:
        shutil.copyfile(source / name, target / name)
    return names


def origin(workdir: Path, run: Run) -> Path | None:
    """The folder with the files that a run's weights came with: its own, or that of the checkpoint it started from
    (where its vocabulary lies)."""
    candidates = [workdir]
    if run.data.tokenizer not in (BYTES, *EMBEDDED):
        file = Path(run.data.tokenizer)
        candidates.append(file if file.is_dir() else file.parent)
    return next((folder for folder in candidates if (folder / ORIGINAL_CONFIG).is_file()), None)


def vocabulary(run: Run) -> Path | None:
    """The file of the run's vocabulary; None where it has none (bytes), or the file is gone."""
    if run.data.tokenizer in (BYTES, *EMBEDDED):
        return EMBEDDED.get(run.data.tokenizer)
    file = Path(run.data.tokenizer)
    files = [file / name for name in (VOCABULARY_FILE, *JSON_VOCABULARY_FILES)] if file.is_dir() else [file]
    return next((file for file in files if file.is_file()), None)


def tokenizer(run: Run) -> Tokenizer | None:
    """The run's tokenizer, with its model's special tokens; None where its file is gone."""
    file = BYTES if run.data.tokenizer == BYTES else vocabulary(run)
    return load_tokenizer(file, SPECIALS[type(run.model)]) if file else None


def write_json(file: Path, fields: dict[str, Any]) -> None:
    """Indented, as Hugging Face writes it."""
    file.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
