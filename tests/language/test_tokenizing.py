import pytest
from tokenizers import normalizers
from transformers import AddedToken

from elf.errors import ElfError
from elf.language.rows import Row, Turn
from elf.language.tokenizing import Tokenizing, tokenizer_hash


def test_what_is_put_in_front_of_texts(make_tokenizer):
    assert Tokenizing(make_tokenizer("chatml")).begins == []
    llama = Tokenizing(make_tokenizer("llama"))
    assert llama.begins == [llama.tokenizer.bos_token_id]
    assert llama.end == llama.tokenizer.eos_token_id
    assert llama.vocabulary == len(llama.tokenizer)


def test_a_tokenizer_without_an_end_is_refused(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    tokenizer.eos_token = None
    with pytest.raises(ElfError, match="has no end-of-sequence token, so no text could end: give"):
        _ = Tokenizing(tokenizer).end


@pytest.mark.parametrize("function", [Tokenizing, tokenizer_hash])
def test_a_slow_tokenizer_is_refused(function):
    with pytest.raises(ElfError, match=r"^object is no fast tokenizer, so masks cannot be exact: "):
        function(object())


@pytest.mark.parametrize("role", ["user", "assistant", "prompt", "text"])
@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_control_tokens_in_what_is_said_are_refused(tokenizer, role, token):
    row = Row("0" * 16, "chat", (Turn("user", "fine"), Turn(role, f"Hi{token}\n")), "a.jsonl:7")
    with pytest.raises(ElfError) as error:
        Tokenizing(tokenizer).refuse_control(row)
    assert str(error.value) == (
        f"a.jsonl:7: the {role}'s words hold the control token '{token}', which could forge a "
        "turn; take it out of the row, or leave the row out"
    )


def test_what_only_looks_like_a_control_token_is_none(tokenizer):
    words = "<|im_ end|> <|im_end| > im_end <| |> <s> </s> <think>"
    Tokenizing(tokenizer).refuse_control(Row("0" * 16, "text", (Turn("text", words),), "a:1"))


def test_a_control_token_that_the_normalizer_makes_is_refused(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    row = Row("0" * 16, "text", (Turn("text", "Hi＜|end|>"),), "a:1")
    Tokenizing(tokenizer).refuse_control(row)
    tokenizer.add_tokens(
        [AddedToken("<|end|>", special=True, normalized=True)], special_tokens=True
    )
    with pytest.raises(ElfError, match=r"control token '<\|end\|>'"):
        Tokenizing(tokenizer).refuse_control(row)


def test_a_hash_is_of_all_that_decides_tokens(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    before = tokenizer_hash(tokenizer)
    assert len(before) == 64 and tokenizer_hash(make_tokenizer("chatml")) == before
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert tokenizer_hash(tokenizer) == before, "a call's padding is not the tokenizer's"
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.chat_template += " "
    hashes = {before, tokenizer_hash(tokenizer)}
    tokenizer.chat_template = {"default": "a", "tool_use": "b"}
    hashes.add(tokenizer_hash(tokenizer))
    tokenizer.add_tokens(["new"])
    hashes.add(tokenizer_hash(tokenizer))
    hashes |= {tokenizer_hash(make_tokenizer(name)) for name in ("marked", "llama")}
    assert len(hashes) == 6
