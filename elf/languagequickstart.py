"""``elf quickstart --model language``: a small language model learns to answer in elvish."""

import json
from pathlib import Path
from typing import Any

from elf.errors import ElfError
from elf.resources import find

TRAIN, EVAL = "configs/train/language-quickstart.yaml", "configs/eval/text.yaml"
BASE = "models/tiny/language"
STEPS = 300  # optimizer steps
ROWS, ASKED = 2000, 100  # lessons, and questions of each kind
TOLERANCE = 1e-4  # of a logit


def run(output: Path, kind: str, max_steps: int, steps: Any) -> dict[str, Any]:
    """Run the loop into a folder and return the summary's figures.

    Args:
        output: The folder.
        kind: lora or dora.
        max_steps: Optimizer steps.
        steps: Tells and times each step.

    Raises:
        ElfError: If plain peft computes something else with the exported folder.
    """
    from elf.world.elvish import write_lessons

    with steps.step("rows", f"{ROWS:,} lessons in elvish, written"):
        files = write_lessons(output / "text", ROWS, 0, ASKED)
    with steps.step("import", "torch, lightning, transformers, peft"):
        from elf import trainer
        from elf.export.peft_form import export_peft
        from elf.export.trained import read_trained

    run_folder, evaluation = output / "run", output / "evaluation"
    training = [
        f"--config={TRAIN}",
        f"--model.base={BASE}",
        f"--model.adapter.kind={kind}",
        f"--trainer.default_root_dir={run_folder}",
        f"--trainer.max_steps={max_steps}",
        f"--data.files=[{files['lessons.jsonl']}]",
        f"--data.tokens={output / 'tokens'}",
    ]
    with steps.step("prepare", "elf prepare: chats to tokens, with masks of the answers"):
        trainer.prepare(training)
    with steps.step("fit", f"elf fit: {max_steps} steps, of packed rows"):
        trainer.fit(training)
    with steps.step("test", "elf test: base against adapter, on questions that are new"):
        trainer.test(
            [
                f"--config={EVAL}",
                f"--model.base={BASE}",
                f"--model.adapter={run_folder}",
                "--model.strengths=[1.0]",
                f"--model.base_generations={output / 'base'}",
                f"--trainer.default_root_dir={evaluation}",
                f"--data.prompts=[{files['questions.jsonl']}]",
                f"--data.forgetting=[{files['old.jsonl']}]",
            ]
        )
    with steps.step("export", "elf export: the folder for peft and vLLM, verified"):
        trained = read_trained(run_folder)
        (exported,) = export_peft(trained, output / "adapter", "float32")
        difference = logit_difference(find(BASE), run_folder, exported)
    if not difference <= TOLERANCE:  # nor if it is none
        raise ElfError(
            f"{exported}: peft computes otherwise with this folder than Elf does in memory "
            f"({difference:.1e}); please report it, with {output / 'quickstart.log'}"
        )
    rows = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))["rows"]
    measured = {row["name"]: {k: row[k] for k in ("base", "adapter")} for row in rows}
    return {
        "model": "language",
        "adapter": kind,
        "steps": max_steps,
        "export_logit_difference": difference,
        "evaluation": measured,
        "train_seconds": steps.seconds["fit"],
        "seconds": steps.seconds,
        "paths": {
            "run": str(run_folder),
            "adapter": str(exported),
            "report": str(evaluation / "report.html"),
        },
    }


def logit_difference(base: str, run_folder: Path, exported: Path) -> float:
    """Return the largest difference of a logit by plain peft from Elf's own, of some tokens."""
    import warnings

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from elf.export.trained import read_trained
    from elf.modules import LanguageModule

    trained = read_trained(run_folder)
    module = LanguageModule(base, trained.config)
    module.configure_model()
    module.load_state_dict(dict(trained.state))
    tokens = torch.arange(3, 99)[None]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers by old names
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        theirs = PeftModel.from_pretrained(plain, exported).eval()(tokens).logits
        mine = module.network.model.eval()(tokens).logits
    return float((mine - theirs).abs().max())


def lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is told at the end, by name."""
    found = summary["evaluation"]

    def pair(name: str, form: str) -> str:
        each = found.get(name, {})
        base, adapter = each.get("base"), each.get("adapter")
        return "–" if base is None else f"{base:{form}} → {adapter:{form}}"

    return [
        ("  right answers, in elvish", pair("exact_match", ".0%")),
        ("  right answers, to what was known", pair("forgetting_exact_match", ".0%")),
        ("  perplexity of new lessons", pair("perplexity", ".3g")),
        ("export and memory differ by", f"{summary['export_logit_difference']:.1e}"),
    ]
