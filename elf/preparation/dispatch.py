"""What a training config wants prepared: shards of pictures, or tokens of texts."""

from typing import Any

import torch

from elf.datamodules import ShardDataModule, TextDataModule
from elf.errors import ElfError
from elf.launcher import joined
from elf.preparation.prepare import prepare
from elf.preparation.remote import is_remote
from elf.processes import first_opens

ENCODED_AT_ONCE = 8  # pictures or captions; 8 pictures of 512 px take about 3 GiB on a GPU


def prepare_for(model: Any, data: Any, on_cpu: bool) -> None:
    """Prepare what a model is trained on, and say what was made.

    Processes that a launcher started share the pictures; of texts the first makes all.

    Args:
        model: Of the training.
        data: Its datamodule.
        on_cpu: Whether a GPU is left alone.

    Raises:
        ElfError: If nothing can be prepared for them, and for all that is wrong with the data.
    """
    if isinstance(data, TextDataModule):
        with joined() as here:
            is_first = here is None or here.rank == 0
            if summary := first_opens(is_first, lambda: data.prepare_tokens(model)):
                print(summary)
        return
    if not (hasattr(model, "encoder") and isinstance(data, ShardDataModule)):
        raise ElfError("prepare needs a training config: a DiffusionModule and a ShardDataModule")
    if is_remote(data.shards):
        raise ElfError(
            f"data.shards {data.shards} is a URL, which is only read: prepare into a folder and "
            "copy it there"
        )
    with joined() as here:
        device = "cpu"
        if torch.cuda.is_available() and not on_cpu:
            device = f"cuda:{here.local_rank % torch.cuda.device_count()}" if here else "cuda"
        prepare(
            model.encoder(torch.device(device)),
            data.settings,
            data.pictures,
            data.labels,
            data.shards,
            batch_size=ENCODED_AT_ONCE,
            workers=max(data.workers, 1),
            trained_batch=data.batch_size,
        )
