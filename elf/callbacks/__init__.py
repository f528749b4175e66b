"""What happens beside the loop: files, samples, checkpoints."""

from elf.callbacks.adapter_file import AdapterFile
from elf.callbacks.answers import AnswerWriter
from elf.callbacks.best import BestCheckpoint
from elf.callbacks.checkpoint import AdapterCheckpoint
from elf.callbacks.labels import LabelWriter
from elf.callbacks.progress import StepBar
from elf.callbacks.randomness import Randomness
from elf.callbacks.recorder import TrainingRecorder
from elf.callbacks.run_folder import RewindMetrics, RunLock
from elf.callbacks.run_page import RunPage
from elf.callbacks.run_record import RunRecord
from elf.callbacks.samples import SamplePictures, SamplePrompt
from elf.callbacks.sampletexts import SampleTexts
from elf.callbacks.speed import SpeedRecorder
from elf.callbacks.watching import with_watching

__all__ = [
    "AdapterCheckpoint",
    "AdapterFile",
    "AnswerWriter",
    "BestCheckpoint",
    "LabelWriter",
    "Randomness",
    "RewindMetrics",
    "RunLock",
    "RunPage",
    "RunRecord",
    "SamplePictures",
    "SamplePrompt",
    "SampleTexts",
    "SpeedRecorder",
    "StepBar",
    "TrainingRecorder",
    "with_watching",
]
