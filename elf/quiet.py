"""Warnings of libraries that say nothing to the user, each with the reason why it is safe."""

import logging
import warnings

HARMLESS = (
    # three of Elf's modules take or draw what a batch needs in this hook; no datamodule defines it
    r"You have overridden `on_before_batch_transfer` in `LightningModule`",
    # lightning 2.6.6 with torch 2.14: a rename inside torch.utils._pytree
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # shards are read by offset: loading takes microseconds, and workers are the user's choice
    r"The '\w+' does not have many workers",
    # nothing held out, or nothing left to label: said by the commands themselves
    r"Total length of `\w+` across ranks is zero",
    # a run's folder holds checkpoints when it goes on from one
    r"Checkpoint directory .* exists and is not empty",
    # small sets: fewer batches than steps between two log rows; each epoch's end logs anyway
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # an epoch is cut by max_steps and continued on purpose (see elf/training/epoch.py)
    r"You're resuming from a checkpoint that ended before the epoch ended",
    # lightning 2.6.6 calls jsonargparse's former name of `instantiate`
    r"(?s)\s*By default only one JsonargparseDeprecationWarning",
    r"(?s)\s*.{0,20}instantiate_classes",
    # torch 2.14 with schedulers in PyTorch's own tests of order: Lightning restores both states
    r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`",
    # what is logged of several processes is brought together before
    r"It is recommended to use `self.log\(.*sync_dist=True\)`",
    # the size in the table of the model, which is mostly the base's
    r"Precision \S+ is not supported by the model summary",
    # torch.compile looks at every tensor's gradient while it traces
    r"The \.grad attribute of a Tensor that is not a leaf Tensor is being accessed",
    # one process on a machine that has SLURM; of several tasks the launcher refuses it
    r"The `srun` command is available on your system but is not used",
    # diffusers 0.42 makes arrays of tensors in Euler's sampler, in numpy 1's way; it gets a copy
    r"__array__ implementation doesn't accept a copy keyword",
)


def silence_harmless_warnings() -> None:
    """Ignore the warnings above and Lightning's tips; everything else is shown."""
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)
    # the seed stands in the run's config.yaml; said first, it parts an error from its command
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)


def _is_no_tip(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "Tip:" not in message and not message.startswith("TPU available")
