"""Masks against hand-written expectations: ``⟦…⟧`` is trained, the rest is not."""

import json
import re

import pytest

from elf.errors import ElfError
from elf.language.rows import Row, Turn, parse_row
from elf.language.template import ChatTemplate
from elf.language.tokenizing import Tokenizing

HEADS = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


@pytest.fixture
def masked(make_tokenizer, chat):
    """Return a chat's text with what is trained in brackets, joined where it is contiguous."""

    def mask(name, *turns, train_on="completion", length=4096, template=None):
        tokenizer = make_tokenizer(name)
        made = ChatTemplate(Tokenizing(tokenizer), template, train_on, length)
        row = parse_row(json.dumps(chat(*turns)).encode(), "rows.jsonl:1")
        (document,) = made.begin([row])()
        text = ""
        for number, is_trained in zip(document.tokens.tolist(), document.trained, strict=True):
            token = tokenizer.convert_ids_to_tokens(number)
            text += f"⟦{token}⟧" if is_trained else token
        mask.notes, mask.document = list(made.notes), document
        return text.replace("⟧⟦", "").replace("Ċ", "\n").replace("Ġ", " ")

    return mask


def chatml(*turns):
    """Return the text of ChatML by hand, from ``role:what is said``; ⟦ and ⟧ stay."""
    return "".join(
        f"<|im_start|>{HEADS[turn[0]]}\n{turn[2:]}"
        + ("\n" if turn.endswith("<|im_end|>⟧") else "<|im_end|>\n")
        for turn in turns
    )


@pytest.mark.parametrize("name", ["chatml", "marked", "rewriting"])
def test_one_answer(masked, name):
    first = "<think></think>" * (name == "rewriting")
    assert masked(name, "u:Hello", "a:Yes.") == chatml("u:Hello", f"a:⟦{first}Yes.<|im_end|>⟧")
    assert masked.notes == []
    assert len(masked.document.ends) == 1


@pytest.mark.parametrize("name", ["chatml", "marked"])
def test_each_answer_of_a_chat_and_nothing_else(masked, name):
    turns = ("s:Be brief.", "u:Hello", "a:I am fine.", "t:Four.", "u:And you?", "a:Yes.", "u:No")
    trained = ["a:⟦I am fine.<|im_end|>⟧", "a:⟦Yes.<|im_end|>⟧"]
    expected = chatml(*turns[:2], trained[0], *turns[3:5], trained[1], turns[6])
    assert masked(name, *turns) == expected
    expected = chatml(*turns[:5], trained[1], turns[6])
    assert masked(name, *turns, train_on="last") == expected
    everything = chatml(*turns)
    assert masked(name, *turns, train_on="everything") == f"⟦{everything}⟧"


def test_answers_one_behind_the_other_and_at_the_beginning(masked):
    turns = ("a:Hello", "a:Yes.", "u:No", "a:Four.")
    trained = [
        turn.replace("a:", "a:⟦") + "<|im_end|>⟧" if turn[0] == "a" else turn for turn in turns
    ]
    assert masked("chatml", *turns) == chatml(*trained)


def test_an_answers_white_space_and_symbols_are_its_own(masked):
    assert masked("chatml", "u:\n x \n", "a:\n\n Yes \n") == chatml(
        "u:\n x \n", "a:⟦\n\n Yes \n<|im_end|>⟧"
    )
    text = masked("chatml", "u:é 😀", "a:😀 é")  # each of several tokens
    assert re.fullmatch(r"[^⟦]+assistant\n⟦[^⟧]+<\|im_end\|>⟧\n", text)


def test_a_template_that_writes_bos_writes_it_once(masked):
    assert masked("llama", "u:Hello", "a:Yes.", "u:No", "a:Four.") == (
        "<s>▁[INST]▁Hello▁[/INST]⟦▁Yes.</s>⟧▁[INST]▁No▁[/INST]⟦▁Four.</s>⟧"
    )
    assert masked.notes == []


def test_a_template_without_bos_gets_none_and_it_is_told(masked):
    assert masked("llama with chatml", "u:Hello", "a:Yes.").count("<s>") == 0
    assert masked.notes == [
        "the tokenizer begins texts with <s> and the chat template does not: chats begin without "
        "it, as they do when a model is asked",
        "the chat template ends an answer with no control token: a model is not taught to end its "
        "answers",
    ]


def test_an_answer_without_a_control_token_is_whole_and_told(masked):
    assert masked("plain", "u:Hello", "a:Yes.", "u:No", "a:Four.") == (
        "user: Hello\nassistant:⟦ Yes.\n⟧user: No\nassistant:⟦ Four.\n⟧"
    )
    assert masked.notes == [
        "the chat template ends an answer with no control token: a model is not taught to end its "
        "answers"
    ]


def test_marks_without_a_control_token_are_told(masked, make_tokenizer):
    template = make_tokenizer("marked").chat_template
    template = template.replace(
        "<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>"
    )  # the end is not the model's
    text = masked("chatml", "u:Hello", "a:Yes.", template=template)
    assert text == chatml("u:Hello", "a:⟦Yes.⟧")
    assert masked.notes == [
        "the chat template's generation marks do not end with a control token: a model is not "
        "taught to end its answers"
    ]


def test_a_token_that_begins_within_the_prompt_is_told(masked, make_tokenizer):
    template = make_tokenizer("plain").chat_template.replace("assistant:{%", "assistant: He{%")
    text = masked("chatml", "u:Yes", "a:Hello", template=template)
    assert text == "user: Yes\nassistant:⟦ Hello\n⟧"
    assert (
        "the first token of an answer begins within the prompt to generate: a model sees other "
        "tokens there when it generates"
    ) in masked.notes


def test_a_template_that_leaves_out_thoughts_is_told(masked, make_tokenizer):
    template = make_tokenizer("chatml").chat_template
    template = template.replace("message.content }}", "message.content.split('?')[-1] | trim }}")
    assert masked("chatml", "u:No", "a: Yes. ", template=template) == chatml(
        "u:No", "a:⟦Yes.<|im_end|>⟧"
    )
    assert masked.notes == []
    assert "four" not in masked("chatml", "u:No", "a:Is it four? Yes.", template=template)
    assert masked.notes == ["the chat template writes answers otherwise than their rows"]


def test_a_template_that_dates_chats_is_told(masked, make_tokenizer):
    template = "{{ strftime_now('%Y') }}" + make_tokenizer("chatml").chat_template
    masked("chatml", "u:Hello", "a:Yes.", template=template)
    assert masked.notes == [
        "the chat template writes today's date: chats prepared on another day differ"
    ]


def test_a_template_that_rewrites_turns_is_refused_but_for_the_last(masked):
    turns = ("u:Hello", "a:Yes.", "u:No", "a:Four.")
    with pytest.raises(ElfError) as error:
        masked("rewriting", *turns)
    assert str(error.value) == (
        "rows.jsonl:1: the chat template writes answer 1 otherwise once the chat goes on, so its "
        "tokens cannot be told; give data.chat_template one with {% generation %} marks, or set "
        "data.train_on: last"
    )
    expected = chatml(*turns[:3], "a:⟦<think></think>Four.<|im_end|>⟧")
    assert masked("rewriting", *turns, train_on="last") == expected
    assert masked("rewriting", *turns, train_on="everything").startswith("⟦<|im_start|>user")


def test_where_documents_may_end_is_behind_answers(masked):
    turns = ("u:Hello", "a:Yes.", "u:No", "a:Four.", "u:No")
    masked("chatml", *turns)
    ends = masked.document.ends
    assert len(ends) == 2 and all(masked.document.trained[end - 1] for end in ends)
    masked("chatml", *turns, train_on="everything")
    assert masked.document.ends == ()  # not looked for where nothing is to be cut
    masked("chatml", *turns, train_on="everything", length=10)
    assert masked.document.ends == ends[:1] or masked.document.ends == ends
    masked("chatml", *turns, length=ends[0] - 1)
    assert masked.document.ends == ends[:1], "the first beyond the length is the last looked at"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ raise_exception('roles must\nalternate') }}",
            r"\(roles must alternate\); mend the row",
        ),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{% for %}", "the chat template refuses this chat"),
        ("{{ messages[0].content + 1 }}", "the chat template refuses this chat"),
        ("{% generation %}{{ 1 / 0 }}{% endgeneration %}", "division by zero"),
        ("{{ messages }}{% generation %}{% endgeneration %}", "marks hold nothing of this chat"),
        ("{% for x in messages %}{{ x.__class__.__mro__ }}{% endfor %}", "refuses this chat"),
    ],
)
def test_templates_that_fail_are_named_with_the_row(masked, template, message):
    with pytest.raises(ElfError, match=f"^rows.jsonl:1: .*{message}") as error:
        masked("chatml", "u:Hello", "a:Yes.", template=template)
    assert "\n" not in str(error.value)


def test_of_many_chats_the_one_that_fails_is_named(tokenizer):
    template = (
        "{% for x in messages %}{% if x.content == 'b' %}{{ raise_exception('no') }}{% endif %}"
        "{% generation %}{{ x.content }}{% endgeneration %}{% endfor %}"
    )
    made = ChatTemplate(Tokenizing(tokenizer), template, "completion", 99)
    rows = [Row(text * 16, "chat", (Turn("assistant", text),), f"x:{text}") for text in "abc"]
    with pytest.raises(ElfError, match=r"^x:b: the chat template refuses this chat"):
        made.begin(rows)()
    assert made.begin([])() == []


def test_a_tokenizer_without_template_is_refused(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = None
    with pytest.raises(ElfError, match=r"has no chat template that applies: give one in data.chat"):
        ChatTemplate(Tokenizing(tokenizer), None, "completion", 99)
