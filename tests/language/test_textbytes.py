"""Bytes of what is trained on: for bits a byte, which no tokenizer decides."""

from elf.language.textbytes import trained_bytes


def test_answers_alone_count_and_no_control_token(make_tokenizer) -> None:
    tokenizer = make_tokenizer("marked")
    chat = [
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "Grüße, Mira."},
        {"role": "user", "content": "Yes."},
        {"role": "assistant", "content": "No."},
    ]
    found = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    masks = [bool(each) for each in found["assistant_masks"]]
    assert any(masks) and not all(masks)
    said = len("Grüße, Mira.".encode()) + len("No.")
    assert trained_bytes(tokenizer, found["input_ids"], masks) == said == 17


def test_the_middle_of_a_text_is_as_long_as_it_is_there(make_tokenizer) -> None:
    """Alone, a Llama's piece would lose the space at its beginning."""
    tokenizer = make_tokenizer("llama")
    tokens = tokenizer("How are you?")["input_ids"]
    text = "How are you?"
    whole = trained_bytes(tokenizer, tokens, [True] * len(tokens))
    for cut in range(1, len(tokens)):
        trained = [False] * cut + [True] * (len(tokens) - cut)
        before = [not each for each in trained]
        parts = trained_bytes(tokenizer, tokens, trained) + trained_bytes(tokenizer, tokens, before)
        assert parts == whole == len(text)


def test_nothing_trained_is_nothing(make_tokenizer) -> None:
    tokenizer = make_tokenizer("chatml")
    assert trained_bytes(tokenizer, [5, 6], [False, False]) == 0
    assert trained_bytes(tokenizer, [tokenizer.eos_token_id], [True]) == 0
