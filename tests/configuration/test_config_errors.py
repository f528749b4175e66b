"""What the parser says, in one line (the real parser's messages are held by test_trainer)."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from elf import curate
from elf.configuration.command_parser import broken
from elf.configuration.config_errors import explain, known_names
from elf.errors import ElfError


def nested(inner: str, key: str = "model") -> str:
    return (
        f'Parser key "{key}":\n  Does not validate against any of the Union subtypes\n'
        "  Errors:\n    - Problem with given class_path 'elf.modules.Module':\n"
        f"        {inner}\n    - Expected a <class 'NoneType'>\n"
        "  Given value: {'class_path': 'Module'}"
    )


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (nested("Option 'rnk' is not accepted"), "unknown key 'model.rnk'; did you mean 'rank'?"),
        (
            nested("Group 'adapter' does not accept option 'rnk'"),
            "unknown key 'model.adapter.rnk'; did you mean 'rank'?",
        ),
        (
            "unrecognized arguments: --zzz=3",
            "unknown key 'zzz'; --help shows the keys that there are",
        ),
        (
            nested("the following arguments are required: base"),
            "'model.base' is required: give it in a config (--config FILE) or as "
            "--model.base VALUE",
        ),
        (
            nested("Importing 'os.system' is not allowed, denied by the 'os' entry"),
            "model: 'os.system' must not be imported; a class_path can name what is in elf, "
            "lightning.pytorch, torch.optim, transformers.optimization, transformers.Adafactor, "
            "bitsandbytes.optim, prodigyopt, schedulefree",
        ),
        (
            nested(
                "Type Callable expects a function or a callable class: module 'torch.optim' has no "
                "attribute 'AdamWW'. Got value: Namespace(class_path='torch.optim.AdamWW')"
            ),
            "model: no class 'torch.optim.AdamWW'; did you mean 'torch.optim.AdamW'?",
        ),
        (
            nested(
                "Type Callable expects a function or a callable class: No module named "
                "'bitsandbytes'. Got value: Namespace(class_path='bitsandbytes.optim.AdamW8bit')"
            ),
            "model: bitsandbytes is not installed: pip install 'elf[8bit]'",
        ),
        (
            nested("Expected a dot import path string: Modul"),
            "model: no class 'Modul' fits there; did you mean 'Module'?",
        ),
        (
            nested("Parser key \"adapter.rank\":\n  Expected a <class 'int'>. Got value: big"),
            "model.adapter.rank: expected int, got big",
        ),
        (
            "Parser key \"config\": File does not exist: '/x/y.yaml'",
            "config: no file /x/y.yaml; give one that is there",
        ),
        (
            "Parser key \"config\": Path is not a file: '/'",
            "config: / is a folder; name a file in it",
        ),
        (
            "argument -c/--config: expected one argument",
            "--config has no value: give one, as in --config VALUE",
        ),
        (
            nested('Parser key "adapter":\n  Unable to load config "lora"', "model"),
            "model.adapter: expected a mapping (KEY: VALUE), got 'lora'",
        ),
        (
            nested("the following arguments are required: prompts", "trainer.callbacks"),
            "trainer.callbacks: Module needs 'prompts'; give it among its init_args",
        ),
        (
            'Parser key "rules":\n  Expected a path but {} either not accessible or invalid\n'
            "  Expected a <class 'list'>. Got value: {}",
            "rules: expected list, got {}",
        ),
        ("something\n   else", "something else"),
        ("unrecognized arguments: --dry-run", "unknown key 'dry-run'; did you mean 'dry_run'?"),
        (
            "unrecognized arguments: data/raw x",
            "'data/raw x' stands alone: name the key that it is for, as in --KEY VALUE",
        ),
        (
            "unrecognized arguments: a.ckpt b.ckpt",
            "'a.ckpt b.ckpt' stands alone: name the key that it is for, as in --KEY VALUE; a "
            "pattern of files needs quotes, as in --ckpt_path '*.ckpt'",
        ),
        (
            "Parser key \"kind\":\n  Expected a typing.Literal['lora', 'dora']. Got value: lokr",
            "kind: expected lora or dora, got lokr",
        ),
        (
            "Parser key \"drop\":\n  Expected a <class 'tuple'>. Got value: blurry",
            "drop: expected list, got blurry; write [blurry]",
        ),
        (
            "Parser key \"sets\":\n  Expected a <class 'list'>. Got value: {'a': 1}",
            "sets: expected list, got {'a': 1}",
        ),
        (
            nested('Parser key "sets":\n  Expected a dot import path string: data/raw'),
            "model.sets: expected a mapping (KEY: VALUE), got 'data/raw'",
        ),
    ],
)
def test_messages(message: str, line: str) -> None:
    assert explain(message, [], ["rank", "Module", "dry_run"]) == line


def test_the_line_of_the_key_is_found_and_comments_are_not_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("# rnk is not here\nmodel:\n  ranks: 3\n  rnk: 4 # rnk\n")
    message = nested("Option 'rnk' is not accepted")
    assert explain(message, ["missing.yaml", str(path)], []) == (
        f"unknown key 'model.rnk' in {path}, line 4; --help shows the keys that there are"
    )


def test_known_names_reach_into_dataclasses() -> None:
    @dataclass
    class Inner:
        rank: int = 1

    class Outer:
        def __init__(self, inner: Inner | None = None, base: str = "") -> None: ...

    Outer.__init__.__annotations__.update(inner=Inner)
    assert known_names([Outer]) == {"Outer", "inner", "base", "rank"}


def test_the_last_file_with_a_key_is_blamed_and_none_for_the_command_line(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("a.yaml", "b.yaml")]
    for file in files:
        Path(file).write_text("rank: 4\n")
    message = "Parser key \"adapter.rank\":\n  Expected a <class 'int'>. Got value: big"
    line = "adapter.rank: expected int, got big"
    assert explain(message, files, []) == f"{line} in {files[1]}, line 1"
    for given in (["--model.adapter.rank", "big"], ["--rank=big"]):
        assert explain(message, files, [], given) == line


def test_of_several_files_the_broken_one_is_named(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("rank: 4\n")
    bad.write_text("rank: [4\n")
    (tmp_path / "latin.yaml").write_bytes(b"rank: \xe9\n")
    files = [str(tmp_path / name) for name in ("good.yaml", "bad.yaml", "latin.yaml", "none.yaml")]
    assert broken(files) == [str(bad)]
    message = "Problems parsing config: expected ',' or ']'"
    line = " is not valid YAML: expected ',' or ']'; mend it there"
    assert explain(message, files[:2], [], [], broken(files)) == f"{bad}{line}"
    assert explain(message, files[:2], []) == f"{good}, {bad}{line}"


def test_a_value_that_holds_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "circle.yaml"
    path.write_text("unknown: &a [*a, *a]\n")
    with pytest.raises(ElfError) as error:
        curate.main([f"--config={path}"])
    assert str(error.value) == (
        f"{path}: a value holds itself (an alias within its own anchor), or is nested too deeply; "
        "write it out"
    )


TRAINING = {"trainer", "model", "data", "rank", "batch_size", "min_steps"}


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "unrecognized arguments: --network_dim=8",
            "unknown key 'network_dim'; kohya's network_dim is 'model.adapter.rank' here",
        ),
        (
            "unrecognized arguments: --max_train_steps",
            "unknown key 'max_train_steps'; kohya's max_train_steps is 'trainer.max_steps' here",
        ),
        (
            nested("Group 'adapter' does not accept option 'network_alpha'"),
            "unknown key 'model.adapter.network_alpha'; kohya's network_alpha is "
            "'model.adapter.alpha' here",
        ),
        (
            "unrecognized arguments: --batch_size=8",
            "unknown key 'batch_size'; its whole name is 'data.batch_size'",
        ),
    ],
)
def test_a_flag_of_kohyas_scripts_is_answered_by_what_it_is_called_here(
    message: str, line: str
) -> None:
    assert explain(message, [], TRAINING) == line


def test_a_command_that_trains_nothing_names_no_key_of_a_training() -> None:
    shown = "; --help shows the keys that there are"
    assert explain("unrecognized arguments: --seed", [], {"root"}) == f"unknown key 'seed'{shown}"


def test_a_flag_for_what_is_always_so_is_told_to_be_needless() -> None:
    line = "unknown key 'xformers'; kohya's xformers is not needed here: attention is torch's own"
    assert explain("unrecognized arguments: --xformers", [], TRAINING) == line


def test_a_switch_that_was_given_a_value() -> None:
    line = "--undo takes no value: leave 'true' out, or leave out both"
    message = "unrecognized arguments: true"
    assert explain(message, [], {"undo"}, ["--undo", "true"]) == line


def test_a_config_with_a_slip_in_its_name_is_answered_by_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "sd15-lora.yaml").touch()
    path = tmp_path / "sd15_lora.yaml"
    message = f"Parser key \"config\": File does not exist: '{path}'"
    assert explain(message, [str(path)], []) == (
        f"config: no file {path}; did you mean {tmp_path / 'sd15-lora.yaml'}?"
    )
    (message,) = (f"File does not exist: '{Path.cwd() / 'configs/train/sd15_lora.yaml'}'",)
    assert explain(message, ["configs/train/sd15_lora.yaml"], []).endswith(
        "did you mean configs/train/sd15-lora.yaml?"
    )
