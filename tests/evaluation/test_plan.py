"""What is generated, by whom, and under which names."""

from elf.evaluation.plan import BASE, Plan, Variant, adapter_names, variants


def test_prompts_and_seeds_are_numbered_by_prompt() -> None:
    plan = Plan(["elf, forest", "forest", "an elfish hat"], [3, 1], "elf")
    assert len(plan) == 6
    assert plan.pairs[:3] == [("elf, forest", 3), ("elf, forest", 1), ("forest", 3)]
    assert plan.triggered.tolist() == [True, False, False]
    assert plan.texts == ["forest", "forest", "an elfish hat"]


def test_without_a_trigger_all_prompts_show_the_adapter() -> None:
    assert Plan(["a", "b"], [0], None).triggered.all()


def test_each_adapter_is_there_at_each_strength_the_weakest_first() -> None:
    assert variants(["one", "two"], [1.0, 0.4]) == [
        BASE,
        Variant("one × 0.4", 0, 0.4),
        Variant("one × 1", 0, 1.0),
        Variant("two × 0.4", 1, 0.4),
        Variant("two × 1", 1, 1.0),
    ]


def test_names_are_short_and_differ() -> None:
    assert adapter_names(["models/elf", "other/orc.safetensors"]) == ["elf", "orc"]
    assert adapter_names(["models/elf/checkpoints/step-000200.ckpt"]) == ["elf/step-000200"]
    assert adapter_names(["a/elf", "b/elf"]) == ["a/elf", "b/elf"]
    assert adapter_names(["models/base"]) == ["models/base"], "the base has that name"


def test_a_variants_folder_is_a_name_on_every_system() -> None:
    assert Variant("elf/step:2 × 0.4", 0, 0.4).folder == "elf_step_2___0.4"
