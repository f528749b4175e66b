import random

from elf.draws import id_words
from elf.preparation.splitting import held_out, held_out_words


def test_copies_share_their_fate_and_count_once():
    draw = random.Random(0)
    ids = [f"{draw.getrandbits(64):016x}" for _ in range(300)]
    copies = [name for name in ids for _ in range(3)]
    held = held_out_words(id_words(copies), 0.2)
    assert {name for name, is_held in zip(copies, held, strict=True) if is_held} == held_out(
        ids, 0.2
    )
    assert not held_out_words(id_words([ids[0]] * 20), 0.99).any(), "one is always trained on"
    assert not held_out_words(id_words([]), 0.5).any()
