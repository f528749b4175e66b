import json

import pytest

from elf.errors import ElfError
from elf.language.rows import Turn, parse_row, parse_text


def parse(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse_row(data, "rows.jsonl:12")


def said(role, content, **more):
    return {"messages": [{"role": role, "content": content, **more}]}


def test_rows_of_each_kind():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    user = {"role": "user", "content": "Hi", "name": "x"}
    chat = parse({"messages": [user, {"role": "assistant", "content": parts}]})
    assert chat.kind == "chat" and chat.where == "rows.jsonl:12"
    assert chat.turns == (Turn("user", "Hi"), Turn("assistant", "Hello"))
    assert chat.messages()[1] == {"role": "assistant", "content": "Hello"}
    prompt = parse({"prompt": "", "completion": " Yes", "text": "passed over"})
    assert prompt.kind == "prompt"
    assert prompt.turns == (Turn("prompt", ""), Turn("completion", " Yes"))
    text = parse({"messages": None, "prompt": "alone", "text": "A text."})
    assert (text.kind, text.turns) == ("text", (Turn("text", "A text."),))


def test_an_id_is_of_what_is_used_and_nothing_else():
    one = parse(b'{"text": "A \\u00e9", "extra": 1}')
    other = parse_text("A é".encode(), "elsewhere")
    assert one.id == other.id and len(one.id) == 16 and int(one.id, 16)
    ids = {
        parse(row).id
        for row in (
            {"text": "a"}, {"text": "a "}, {"prompt": "a", "completion": "b"},
            {"prompt": "ab", "completion": "b"}, said("assistant", "a"),
            {"prompt": "", "completion": "a"},
        )
    }  # fmt: skip
    assert len(ids) == 6


MESSAGES = {
    b"{": "not JSON (Expecting property name",
    b"": "not JSON (Expecting value)",
    b'{"text": "a"} {': "not JSON (Extra data); write one row a line, or delete that line",
    b'{"text": "\xff"}': "not UTF-8 from byte 11 on; save the file as UTF-8",
    b"[" * 100_000: "not JSON (too deep or too large)",
    b'{"text": ' + b"9" * 5000 + b"}": "not JSON (too deep or too large)",
    b"[1]": 'a list, no object; write rows as {"text": …}, one a line',
    b"7": "a number, no object",
    b'"text"': "a string, no object",
    b"null": "missing or null, no object",
    b"{}": "no known keys (it has nothing); a row has messages, prompt and completion, or text",
    b'{"conversations": [], "x": 1}': "no known keys (it has 'conversations', 'x')",
    b'{"prompt": "a"}': "no known keys (it has 'prompt')",
    b'{"messages": []}': "`messages` is empty; give a list of messages with role and content",
    b'{"messages": {}}': "`messages` is an object",
    b'{"messages": ["a"]}': "message 1 is a string; give role and content",
    b'{"text": ["a"]}': "`text` is a list, no string; write it as one string",
    b'{"text": " \\n "}': "the text is empty; leave the row out",
    b'{"text": "a\\u0000"}': "`text` holds a NUL character; take it out",
    b'{"text": "a\\ud83d"}': "`text` holds half a surrogate pair; write the file in UTF-8 anew",
    b'{"prompt": "\\udc00", "completion": "a"}': "`prompt` holds half a surrogate pair",
    b'{"prompt": "a", "completion": ""}': "`completion` is empty; leave the row out",
    b'{"prompt": [], "completion": "a"}': "`prompt` is a list, no string",
    json.dumps(said("user", "a")).encode(): "no assistant turn; a chat is trained on what",
    json.dumps(said("human", "a")).encode(): "message 1 has the role 'human'; roles are system, u",
    json.dumps(said(["user"], "a")).encode(): "message 1 has the role ['user']; roles are",
    json.dumps(said("assistant", None)).encode(): "message 1's content is missing or null, no str",
    json.dumps(said("assistant", True)).encode(): "message 1's content is true or false, no",
    json.dumps(said("assistant", "")).encode(): "message 1's content is empty; leave the row out",
    json.dumps(said("assistant", [])).encode(): "message 1's content is empty; leave the row out",
    json.dumps(said("assistant", ["a"])).encode(): "message 1 has a part that is a string; only te",
    json.dumps(said("assistant", [{"type": "image"}])).encode(): "a part that is 'image'; only tex",
    json.dumps(said("assistant", [{"type": "text"}])).encode(): "message 1's text is missing or nu",
    json.dumps(said("assistant", "", tool_calls=[1])).encode(): "message 1 calls a tool; write the",
}


@pytest.mark.parametrize(("data", "message"), MESSAGES.items(), ids=range(len(MESSAGES)))
def test_what_is_no_row_is_refused_with_its_line(data, message):
    with pytest.raises(ElfError) as error:
        parse(data)
    said = str(error.value)
    assert said.startswith("rows.jsonl:12: ") and message in said
    assert "\n" not in said and len(said) < 250


def test_plain_texts_are_refused_the_same():
    for data, message in {
        b"\xff": "not UTF-8 from byte 1 on", b"  ": "the text is empty",
        b"a\0": "the text holds a NUL character",
    }.items():  # fmt: skip
        with pytest.raises(ElfError, match=f"^a.tar/1.txt: {message}"):
            parse_text(data, "a.tar/1.txt")
