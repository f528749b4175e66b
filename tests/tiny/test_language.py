"""The tiny language's builder, recipe and stored weights."""

import filecmp
import warnings
from pathlib import Path

import pytest
import torch

from elf.tiny.language import CONTEXT, END, PAD, START, build, tokenizer
from elf.tiny.loop import Budget
from elf.tiny.train_language import QUESTION_WEIGHT, answers, batches, exact_match, fit
from elf.world.elvish import lessons, questions
from elf.world.sights import BEGINNINGS, ENDINGS, NAMES, draw_sight
from elf.world.talk import chats, old_tasks
from elf.world.tongues import elvish

STORED = Path(__file__).parents[2] / "models" / "tiny" / "language"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("language"), seed=3)


def test_the_same_seed_writes_the_same_bytes(untrained: Path, tmp_path: Path) -> None:
    again = build(tmp_path, seed=3)
    files = sorted(path.name for path in untrained.iterdir())
    assert files == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for name in files:
        assert filecmp.cmp(untrained / name, again / name, shallow=False), name


def test_it_is_a_llama_with_a_chat_template(untrained: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    language = AutoModelForCausalLM.from_pretrained(untrained)
    tokens = AutoTokenizer.from_pretrained(untrained)
    assert type(language) is LlamaForCausalLM
    assert language.dtype == torch.float32
    assert language.get_input_embeddings().weight is language.get_output_embeddings().weight
    assert len(tokens) == language.config.vocab_size
    assert (tokens.eos_token, tokens.pad_token, tokens.model_max_length) == (END, PAD, CONTEXT)
    assert language.generation_config.eos_token_id == tokens.eos_token_id
    assert answers(untrained, old_tasks(0, 2)) != [""] * 2


def test_the_template_marks_what_the_assistant_says_and_its_end() -> None:
    tokens = tokenizer()
    chat = [
        {"role": "system", "content": "You are the guide of the wood."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello, traveller."},
    ]
    read = tokens.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    assert tokens.decode(read["input_ids"]) == (
        f"{START}system\nYou are the guide of the wood.{END}\n{START}user\nHello.{END}\n"
        f"{START}assistant\nHello, traveller.{END}\n"
    )
    marked = zip(read["input_ids"], read["assistant_masks"], strict=True)
    assert tokens.decode([number for number, said in marked if said]) == f"Hello, traveller.{END}"
    asked = tokens.apply_chat_template(chat[:2], add_generation_prompt=True, tokenize=False)
    assert asked.endswith(f"{END}\n{START}assistant\n")


def test_names_are_two_tokens_and_words_of_elvish_a_word_and_an_ending() -> None:
    from random import Random

    tokens = tokenizer()
    assert {tuple(tokens.tokenize(f" {name}")) for name in NAMES} == {
        (f"Ġ{first}", last) for first in BEGINNINGS for last in ENDINGS
    }
    for number in range(200):
        said = elvish(draw_sight(Random(number)))
        assert len(tokens.tokenize(said)) == 2 * len(said.split()) + 1


@pytest.mark.parametrize("text", ["Galowen holds a ring.", "zyzzyva é 龍", "a  b\n\tc ^_^ '1'"])
def test_any_text_tokenizes_and_comes_back(text: str) -> None:
    tokens = tokenizer()
    assert tokens.decode(tokens(text)["input_ids"]) == text


def test_every_chat_and_lesson_is_short_enough() -> None:
    rows = [*chats(0, 500), *(row["messages"] for row in lessons(0, 100))]
    lengths = [len(ids) for ids in tokenizer().apply_chat_template(rows)["input_ids"]]
    assert max(lengths) <= CONTEXT


def test_batches_hold_every_chat_once_and_weigh_answers_most() -> None:
    made = batches(70, 16, seed=4)
    tokens = tokenizer()
    assert sorted(len(ids) for ids, _ in made) == [6, 16, 16, 16, 16]
    read = {tokens.decode(row, skip_special_tokens=True) for ids, _ in made for row in ids}
    wanted = tokens.apply_chat_template(chats(4, 70), tokenize=False)
    marks = (PAD, START, END)
    assert read == {_without(text, marks) for text in wanted}
    for ids, weights in made:
        assert (weights[ids == tokens.pad_token_id] == 0).all()
        assert weights[ids != tokens.pad_token_id].unique().tolist() == [
            pytest.approx(QUESTION_WEIGHT),
            1.0,
        ]


def _without(text: str, marks: tuple[str, ...]) -> str:
    for mark in marks:
        text = text.replace(mark, "")
    return text


def test_a_few_steps_write_a_model_that_answers(tmp_path: Path) -> None:
    fit(tmp_path, Budget(steps=3, batch=4, rate=1e-3), count=20)
    assert 0 <= exact_match(tmp_path, old_tasks(0, 2)) <= 1


def test_the_stored_model_fits_into_git_and_loads_without_a_word(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sizes = [path.stat().st_size for path in STORED.iterdir()]
    assert sum(sizes) <= 2 * 2**20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutoTokenizer.from_pretrained(STORED, local_files_only=True)
        AutoModelForCausalLM.from_pretrained(STORED, local_files_only=True)
    assert caplog.records == []
    assert "warn" not in capfd.readouterr().err.lower()


def test_the_stored_tokenizer_is_the_one_that_is_built() -> None:
    from transformers import AutoTokenizer

    stored, built = AutoTokenizer.from_pretrained(STORED), tokenizer()
    assert stored.get_vocab() == built.get_vocab()
    assert stored.chat_template == built.chat_template
    for chat in chats(6, 50):
        assert stored.apply_chat_template(chat) == built.apply_chat_template(chat)


def test_the_stored_model_does_the_old_tasks_and_knows_no_elvish() -> None:
    assert exact_match(STORED, old_tasks(11, 45)) >= 0.95
    assert exact_match(STORED, questions(11, 40)) <= 0.05


def test_no_row_of_its_weights_is_zero() -> None:
    """peft's DoRA divides by their norms."""
    from safetensors.torch import load_file

    for name, tensor in load_file(STORED / "model.safetensors").items():
        assert (tensor.float().reshape(len(tensor), -1).norm(dim=1) > 0).all(), name
