import pytest

from elf.language.documents import begin_prompts, begin_texts
from elf.language.rows import Row, Turn
from elf.language.tokenizing import Tokenizing


def prompt(before, after):
    return Row("0" * 16, "prompt", (Turn("prompt", before), Turn("completion", after)), "a:1")


def text(words):
    return Row("0" * 16, "text", (Turn("text", words),), "a:1")


def shown(tokenizer, document):
    tokens = tokenizer.convert_ids_to_tokens(document.tokens.tolist())
    return [
        f"[{token}]" if trained else token
        for token, trained in zip(tokens, document.trained, strict=True)
    ]


def test_a_prompt_and_its_completion_are_tokenised_apart(tokenizer):
    documents = begin_prompts(
        [prompt("What is two", " plus two?"), prompt("Hell", "o"), prompt("", "Yes")],
        Tokenizing(tokenizer),
    )()
    assert [shown(tokenizer, each) for each in documents] == [
        ["What", "Ġis", "Ġtwo", "[Ġplus]", "[Ġtwo]", "[?]", "[<|im_end|>]"],
        # as one text it would be one token more of the vocabulary: Hello
        ["He", "ll", "[o]", "[<|im_end|>]"],
        ["[Ye]", "[s]", "[<|im_end|>]"],
    ]
    assert [each.ends for each in documents] == [(7,), (4,), (3,)]
    assert not any(each.splits for each in documents)
    (whole,) = begin_prompts([prompt("What", " is")], Tokenizing(tokenizer), everything=True)()
    assert shown(tokenizer, whole) == ["[What]", "[Ġis]", "[<|im_end|>]"]


def test_a_text_is_trained_whole(tokenizer):
    (document,) = begin_texts([text("two. Yes.")], Tokenizing(tokenizer))()
    assert "".join(shown(tokenizer, document)) == "[t][wo][.][ĠYes][.][<|im_end|>]"
    assert document.splits and len(document) == 6
    assert begin_texts([], Tokenizing(tokenizer))() == []


@pytest.mark.parametrize("name", ["llama", "llama with chatml"])
def test_bos_is_in_front_where_the_tokenizer_puts_it(make_tokenizer, name):
    tokenizer = make_tokenizer(name)
    tokenizing = Tokenizing(tokenizer)
    (document,) = begin_texts([text("Yes.")], tokenizing)()
    assert document.tokens.tolist()[:-1] == tokenizer("Yes.")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(document.tokens.tolist())[::len(document) - 1] == [
        "<s>", "</s>"
    ]  # fmt: skip
    (document,) = begin_prompts([prompt("Is two", "Yes.")], tokenizing)()
    prefix = tokenizer("Is two")["input_ids"]
    assert document.tokens.tolist()[: len(prefix)] == prefix
    assert document.trained.tolist() == [False] * len(prefix) + [True] * (
        len(document) - len(prefix)
    )
    assert document.tokens.tolist().count(tokenizer.bos_token_id) == 1
    generated = document.tokens.tolist()[len(prefix) : -1]
    assert tokenizer.decode(generated) == "Yes."
