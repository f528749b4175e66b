import pytest

from elf.errors import ElfError
from elf.taggers.tags import TagList, display, is_kaomoji

CSV = """tag_id,name,category,count
9999999,general,9,10
1,long_hair,0,9
2,"don't_say_""lazy""\",0,8
3,^_^,0,7
4,miku_(vocaloid),4,6
5,someone,1,5
6,odd,77,4
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_list_is_read_with_real_csv_quoting(tmp_path, newline, start):
    path = tmp_path / "selected_tags.csv"
    path.write_bytes((start + CSV.replace("\n", newline)).encode())
    tags = TagList.read(path)
    assert tags.names == [
        *("general", "long_hair", 'don\'t_say_"lazy"', "^_^", "miku_(vocaloid)", "someone", "odd")
    ]
    assert tags.categories == [
        *("rating", "general", "general", "general", "character", "artist", "77")
    ]
    assert len(tags) == 7


@pytest.mark.parametrize(
    ("text", "line"),
    [("tag,count\na,1\n", 1), ("", 0), ("name,category\na,b\n", 2), ("name,category\na,0\nb\n", 3)],
)
def test_a_damaged_row_is_named_by_its_line(tmp_path, text, line):
    path = tmp_path / "tags.csv"
    path.write_text(text)
    with pytest.raises(ElfError, match=rf"tags.csv, line {line}: not a row of a tag list; the col"):
        TagList.read(path)


def test_an_empty_list_is_refused(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text("tag_id,name,category,count\n")
    with pytest.raises(ElfError, match=r"tags.csv: no tags in it; fetch the file again"):
        TagList.read(path)


KAOMOJI = "^_^ >_< @_@ +_+ =_= o_o |_| 0_0 >_o u_u x_x ._. <o>_<o> <|>_<|> (o)_(o) 6_9 ||_||"


@pytest.mark.parametrize("name", KAOMOJI.split())
def test_kaomoji_keep_their_underscores(name):
    assert is_kaomoji(name)
    assert display(name) == name


@pytest.mark.parametrize("name", ["long_hair", "1girl", "m16_rifle", "no_u", "été_ü"])
def test_words_are_no_kaomoji(name):
    assert not is_kaomoji(name)


def test_underscores_become_spaces_unless_they_are_kept():
    assert display("very_long_hair") == "very long hair"
    assert display("very_long_hair", keep_underscores=True) == "very_long_hair"


def test_parentheses_are_escaped_on_request():
    assert display("miku_(vocaloid)") == "miku (vocaloid)"
    assert display("miku_(vocaloid)", escape_parentheses=True) == r"miku \(vocaloid\)"
