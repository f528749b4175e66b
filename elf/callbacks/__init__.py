"""What happens beside the loop: files, samples, checkpoints."""

from elf.callbacks.checkpoint import AdapterCheckpoint
from elf.callbacks.labels import LabelWriter
from elf.callbacks.progress import StepBar
from elf.callbacks.randomness import Randomness
from elf.callbacks.run_folder import RewindMetrics, RunLock
from elf.callbacks.samples import SamplePictures, SamplePrompt

__all__ = [
    "AdapterCheckpoint",
    "LabelWriter",
    "Randomness",
    "RewindMetrics",
    "RunLock",
    "SamplePictures",
    "SamplePrompt",
    "StepBar",
]
