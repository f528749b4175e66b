"""Whether a base makes text or pictures, before any of it is loaded."""

from elf.pretrained import expanded, is_local, model_folder
from elf.resources import find

PIPELINE, CONFIG = "model_index.json", "config.json"
"""What a model that makes pictures has in its folder, and what any other of transformers has."""


def is_language_model(name: str) -> bool:
    """Whether a base, by its name, is a language model: what is none is taken for pictures.

    Args:
        name: A folder, a hub name or a file.

    Raises:
        ElfError: If the hub cannot be asked for what it is.
    """
    path = expanded(find(name))
    if path.suffix.lower() in (".gguf", ".safetensors", ".ckpt"):
        return path.suffix.lower() == ".gguf"
    if not is_local(find(name)):
        path = model_folder(name, "base model", (), (PIPELINE, CONFIG))
    return (path / CONFIG).is_file() and not (path / PIPELINE).is_file()
