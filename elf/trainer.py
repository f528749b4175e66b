"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with its traps closed."""

import contextlib
import os
from argparse import ArgumentError
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)

# Importing the sub-packages registers their classes, so that YAML names them shortly.
import elf.datamodules
import elf.modules  # noqa: F401
from elf.callbacks import (
    AdapterCheckpoint,
    BestCheckpoint,
    Randomness,
    RewindMetrics,
    RunLock,
    StepBar,
    with_watching,
)
from elf.configuration.command_parser import broken, other_encoding
from elf.configuration.config_errors import ALLOWED, explain, known_names, missing, refuse_circular
from elf.configuration.nulls import refuse_nulls
from elf.configuration.refusals import (
    refuse_absent_gpu,
    refuse_half_precision_on_cpu,
    refuse_null_trainer,
    refuse_other_model,
    refuse_senseless_values,
    refuse_used_folder,
)
from elf.datamodules.reading import WORKER_DIED, is_of_dead_worker
from elf.errors import ElfError
from elf.export.reading import PEFT_WEIGHTS
from elf.files import write_atomic
from elf.labels.explain import explain as explain_label
from elf.launcher import LOST, is_of_lost_process, own_environment, trainer_options
from elf.loggers import LoggerName, make_loggers, validation_loggers
from elf.preparation.dispatch import prepare_for
from elf.quiet import silence_harmless_warnings
from elf.resources import resolve_configs
from elf.training.checkpoints import (
    AtomicCheckpointIO,
    give_checkpoint,
    last_checkpoint,
    named_checkpoints,
)
from elf.training.validating import CKPT_PATH, EveryCheckpoint
from elf.watching import log_config

DOES = {
    "fit": "Train an adapter.",
    "validate": "Measure the validation loss of checkpoints.",
    "test": "Evaluate an adapter against its base.",
    "predict": "Tag and caption a folder of pictures, or answer prompts.",
    "prepare": "Write shards, buckets and caches for a training's config.",
    "plan": "Say what a training will take, before it is started.",
}

set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(ALLOWED))


class ElfParser(LightningArgumentParser):
    """Raises instead of printing 57 lines and exiting: ``ElfCLI`` explains the whole message.

    It knows keys by their whole names alone: `--trainer.max_step` is a mistake, and is told.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's message; nested parsers put theirs into their parent's."""
        raise ArgumentError(None, message) from ex


def _help_of(command: str) -> dict[str, str]:
    """Return what a command's help begins with; Lightning's usage takes sixty lines."""
    return {"usage": f"elf {command} --config FILE [options]", "description": DOES[command]}


class SaveRunConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's own folder, atomically."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace) -> None:
        super().__init__(parser, config, save_to_log_dir=False)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the whole configuration, defaults included."""
        if stage in ("fit", "test"):
            text = self.parser.dump(self.config, skip_unset=False)
            write_atomic(Path(trainer.default_root_dir) / "config.yaml", text)
            log_config(trainer, yaml.safe_load(text))


class ElfCLI(LightningCLI):
    """LightningCLI for Elf's YAML: its keys are seed_everything, logger, trainer, model, data.

    The run's folder is ``trainer.default_root_dir``; left out, it is ``models/<config's name>``.
    """

    def __init__(self, arguments: list[str], run: bool = True, command: str = "prepare") -> None:
        arguments, self.config_files = resolve_configs(arguments)
        known = self.subcommands() if run else {}
        helps = {name: _help_of(name) for name in arguments[:1] if name in known}
        if run:  # a parser for each of Lightning's commands would take longer than all else
            self.subcommands = lambda: {name: known[name] for name in helps}  # type: ignore[method-assign]
        super().__init__(
            args=arguments,
            run=run,
            parser_class=ElfParser,
            save_config_callback=SaveRunConfig,
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs=helps if run else _help_of(command),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the keys that are Elf's own, and Elf's defaults."""
        parser.add_argument(
            "--logger",
            type=LoggerName,
            default="csv",
            help="csv, or tensorboard or wandb beside it",
        )
        # Lightning's table tells the base's size; what is trained, a line of the module's own does
        parser.set_defaults({"trainer.enable_model_summary": False})

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's commands, with the options that they do not get from there."""
        known = LightningCLI.subcommands()
        return known | {"validate": known["validate"] | {"ckpt_path"}}

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "validate":
            kind = str | list[str] | None
            parser.add_argument("--ckpt_path", type=kind, default=None, help=CKPT_PATH)
        elif subcommand == "predict":
            # Lightning's default keeps every batch's result in memory until the end
            parser.set_defaults({"return_predictions": False})
            parser.add_argument(
                "--explain",
                type=str | None,
                default=None,
                help="a labelled picture's id: print which rule did what to its tags",
            )
        return parser

    def _run_subcommand(self, subcommand: str) -> None:
        key = self.config[subcommand].get("explain")
        if key is None:
            super()._run_subcommand(subcommand)
            return
        data = self.datamodule
        labels, cache = getattr(data, "labels", ""), getattr(data, "cache", None)
        print(explain_label(self.model, labels, cache, key))

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse a list of arguments (Lightning warns whenever one is given)."""
        assert isinstance(args, list)
        try:
            with refuse_circular(self.config_files):
                self.config = parser.parse_args(args)
        except ArgumentError as error:
            bases = (LightningModule, LightningDataModule, Callback)
            names = known_names([Trainer, *(cls for base in bases for cls in _subclasses(base))])
            names |= {"trainer", "model", "data", "seed_everything", "logger"}
            files = self.config_files
            raise ElfError(explain(str(error), files, names, args, broken(files))) from None

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone; Lightning lets a checkpoint's beat it silently.

        Here the module compares them when the checkpoint is loaded, and refuses what differs.
        """

    def before_instantiate_classes(self) -> None:
        """Settle the run's folder, resolve ``--ckpt_path last``, refuse what would go wrong."""
        config = self.config if self.subcommand is None else self.config[self.subcommand]
        with refuse_circular(self.config_files):
            refuse_null_trainer(config.trainer, self.config_files)
            refuse_nulls(config.as_dict(), Trainer, self.config_files)
        refuse_senseless_values(config.trainer)
        if self.subcommand is None:
            return  # nothing will run
        if config.get("data") is None:
            raise ElfError(missing("data"))
        trainer = config.trainer
        if trainer.default_root_dir is None:
            name = Path(self.config_files[-1]).stem if self.config_files else "run"
            trainer.default_root_dir = f"models/{name}"
        trainer.default_root_dir = os.fspath(trainer.default_root_dir)
        refuse_absent_gpu(str(trainer.accelerator))
        refuse_half_precision_on_cpu(str(trainer.precision or ""), str(trainer.accelerator))
        # not into the configuration, which is written beside the run and read wherever it goes on
        self._launched = trainer_options(trainer.devices, trainer.num_nodes)
        folder = Path(trainer.default_root_dir)
        if folder.exists() and not folder.is_dir():
            raise ElfError(f"trainer.default_root_dir: {folder} is a file; give a folder")
        if self.subcommand == "validate":
            if config.ckpt_path is not None:
                config.ckpt_path = [str(p) for p in named_checkpoints(config.ckpt_path, folder)]
        elif config.get("ckpt_path") == "last":
            try:
                config.ckpt_path = str(last_checkpoint(folder))
            except ElfError as error:
                raise ElfError(f"{error}; leave --ckpt_path out to start from nothing") from None
        elif config.get("ckpt_path") and not Path(config.ckpt_path).is_file():
            named = config.ckpt_path
            raise ElfError(f"ckpt_path: no file {named}; {give_checkpoint(named)}, or `last`")
        elif self.subcommand == "fit" and not config.ckpt_path:
            refuse_used_folder(folder)

    def instantiate_classes(self) -> None:
        """Make model and data, and the trainer if something will run."""
        try:
            if self.subcommand is not None:
                super().instantiate_classes()
                refuse_other_model(self.subcommand, self.model)
            else:
                self.made = made = self.parser.instantiate(self.config)
                self.model, self.datamodule = made.model, made.data
        except ValueError as error:
            raise _refusal_in(error) or _first_reason(error) from None

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise ElfError(f"seed_everything: {error}") from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, with the run's loggers and atomic checkpoints."""
        config = self._get(self.config_init, "trainer")
        if config.logger is None and self.subcommand in ("fit", "test"):
            name = self._get(self.config_init, "logger")
            goes_on = self.subcommand == "fit" and bool(self._get(self.config_init, "ckpt_path"))
            kwargs["logger"] = make_loggers(name, config.default_root_dir, goes_on)
        elif config.logger is None and self.subcommand == "validate":
            name = self._get(self.config_init, "logger")
            kwargs["logger"] = validation_loggers(name, config.default_root_dir)
        elif config.logger is None:
            kwargs["logger"] = False
        kwargs["plugins"] = [*(config.plugins or []), AtomicCheckpointIO(), *own_environment()]
        kwargs |= self._launched
        callbacks = config.callbacks or []
        own_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        bar = [] if own_bar or config.enable_progress_bar is False else [StepBar()]
        if self.subcommand == "validate":
            paths = [Path(each) for each in self._get(self.config_init, "ckpt_path") or []]
            lock = [RunLock(".validation.lock")] * bool(paths)
            callbacks = kwargs["callbacks"] = [*lock, *callbacks, *bar, EveryCheckpoint(paths)]
        if self.subcommand == "fit":
            callbacks = with_watching(callbacks)
        if self.subcommand in ("fit", "test"):
            callbacks = kwargs["callbacks"] = [RunLock(), RewindMetrics(), *callbacks]
        if self.subcommand == "fit":
            if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
                callbacks = [*callbacks, AdapterCheckpoint()]
            if not any(isinstance(callback, BestCheckpoint) for callback in callbacks):
                callbacks = [*callbacks, BestCheckpoint()]
            kwargs["callbacks"] = [*callbacks, *bar, Randomness()]
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """Say what there is now, and how it is used."""
        folder = Path(self.trainer.default_root_dir)
        if self.trainer.is_global_zero:
            print(f"How it went: {folder / 'index.html'}")
            written = sorted((folder / "adapter").glob("*.safetensors"))
            where = written[0] if written else f"elf export --input {folder} --output FOLDER"
            what = "file"
            if written and written[0].name == PEFT_WEIGHTS:
                where, what = written[0].parent, "folder"
            steps = self.trainer.global_step
            print(f"{steps} steps are done. The {what} that others load: {where}")


def _refusal_in(error: BaseException | None) -> ElfError | None:
    """Return the ElfError among an exception's causes: jsonargparse reports what a class raised."""
    while error is not None and not isinstance(error, ElfError):
        error = error.__cause__ or error.__context__
    return error


def _subclasses(base: type) -> list[type]:
    classes: list[type] = base.__subclasses__()
    own = [cls for cls in classes if cls.__module__.startswith("elf.")]
    return own + [inner for cls in own for inner in _subclasses(cls)]


def run(command: str, arguments: list[str]) -> ElfCLI:
    """Run one of Lightning's commands and return what it was run with.

    Raises:
        ElfError: For all that is wrong with the input, Lightning's own refusals included.
        KeyboardInterrupt: After Ctrl-C, for which Lightning exits as after an error.
    """
    silence_harmless_warnings()
    try:
        with one_line(arguments):
            return ElfCLI([command, *arguments])
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


@contextlib.contextmanager
def one_line(arguments: list[str]) -> Iterator[None]:
    """Turn what YAML, jsonargparse and Lightning say of what is wrong into one line."""
    try:
        yield
    except yaml.YAMLError as error:
        raise ElfError(f"not valid YAML: {' '.join(str(error).split())[:200]}") from None
    except UnicodeDecodeError as error:
        raise other_encoding(error, arguments) from None
    except MisconfigurationException as error:
        raise ElfError(f"trainer: {' '.join(str(error).split())}") from None
    except RuntimeError as error:
        if is_of_dead_worker(error):
            raise ElfError(WORKER_DIED) from None
        if is_of_lost_process(error):
            raise ElfError(LOST) from None
        raise


def _first_reason(error: ValueError) -> ElfError:
    """Return the first reason of jsonargparse's report, which has one for each type of a union."""
    lines = str(error).splitlines()
    reason = next((line for line in lines if line.startswith("  - ")), lines[0])
    return ElfError(
        f"config: {reason.removeprefix('  - ')[:200]}; is a value wrong, or missing (null)?"
    )


def prepare(arguments: list[str]) -> None:
    """``elf prepare``: write shards and caches for a training config, the one ``fit`` reads."""
    silence_harmless_warnings()
    with one_line(arguments):
        cli = ElfCLI(arguments, run=False)
        prepare_for(cli.model, cli.datamodule, on_cpu=cli.config.trainer.accelerator == "cpu")


def fit(arguments: list[str]) -> None:
    """``elf fit``: train an adapter."""
    run("fit", arguments)


def validate(arguments: list[str]) -> None:
    """``elf validate``: measure the validation loss."""
    run("validate", arguments)


def test(arguments: list[str]) -> None:
    """``elf test``: evaluate an adapter against its base."""
    run("test", arguments)


def predict(arguments: list[str]) -> None:
    """``elf predict``: tag and caption pictures, or answer prompts."""
    run("predict", arguments)
