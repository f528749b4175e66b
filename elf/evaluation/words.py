"""How the page calls metrics and verdicts, and how it writes numbers."""

from dataclasses import dataclass

from elf.evaluation.schema import Difference, Variant


@dataclass(frozen=True)
class Question:
    """What a metric asks.

    Attributes:
        title: Its name for people.
        meaning: What it says, in half a sentence.
        digits: Decimals of its values; of percent where it is a share.
        share: Whether its values are shares, shown in percent.
    """

    title: str
    meaning: str
    digits: int = 3
    share: bool = False


QUESTIONS = {
    "weight_change": Question("Size of the update", "‖ΔW‖ / ‖W‖; 0: nothing was learnt", 4),
    "picture_change": Question("Change of the pictures", "of a pixel, from the base's picture"),
    "held_out_loss": Question("Held-out loss", "error on pictures that were not trained on", 4),
    "trained_loss": Question("Loss of trained pictures", "far below: learnt by heart", 4),
    "subject_similarity": Question("Likeness to the subject", "cosine to the training pictures"),
    "subject_share": Question(
        "Way to the subject", "100 %: as like the training pictures as these are", 1, True
    ),
    "subject_similarity_clip": Question("Likeness by CLIP", "a second opinion on the subject"),
    "prompt_similarity": Question("Follows the prompt", "cosine to the prompt without the trigger"),
    "prompt_margin": Question(
        "Tells prompts apart", "fits its own better than the others; 0: blind"
    ),
    "concept_rate": Question("Concept", "share of pictures that show all its parts", 1, True),
    "attribute_rate": Question("Attributes", "share of the wanted tags that show", 1, True),
    "concept_rate_without_trigger": Question(
        "Concept, no trigger", "how far it leaks into other prompts", 1, True
    ),
    "attribute_rate_without_trigger": Question(
        "Attributes, no trigger", "how far they leak into other prompts", 1, True
    ),
    "kid": Question("KID", "distance to the training pictures' distribution", 4),
    "cmmd": Question("CMMD", "the same by CLIP, unbiased"),
    "fid": Question("FID", "the same, valid for thousands of pictures alone", 1),
    "diversity": Question("Diversity", "distance between the seeds of one prompt"),
    "diversity_ratio": Question(
        "Diversity beside the base", "near 0: a prompt's seeds have become one picture", 1, True
    ),
    "copies": Question("Copies", "share of pictures that copy a training picture", 1, True),
    "nearest_similarity": Question("Nearest training picture", "likeness to the most alike one"),
    "drift": Question("Drift", "change of pictures whose prompts lack the trigger"),
    "prompt_similarity_without_trigger": Question(
        "Follows the prompt, no trigger", "whether the base's knowledge was damaged"
    ),
    "prompt_margin_without_trigger": Question(
        "Tells prompts apart, no trigger", "the same of prompts without the trigger"
    ),
    "answer_change": Question("Change of the answers", "share that is not the base's", 1, True),
    "exact_match": Question("Right answers", "share that is the reference, word for word", 1, True),
    "rouge_l": Question("ROUGE-L", "words in common with the reference, in their order", 1, True),
    "bleu": Question("BLEU", "pieces of up to four words that stand in the references", 1, True),
    "perplexity": Question("Perplexity", "e to the mean error of a held-out token", 2),
    "perplexity_ratio": Question("Perplexity beside the base's", "below 1: learnt something"),
    "bits_per_byte": Question("Bits a byte", "the same for any tokenizer"),
    "token_accuracy": Question("Tokens that are right", "that no other was likelier than", 1, True),
    "trained_perplexity_ratio": Question(
        "Perplexity beside the base's, trained", "far below that of held-out ones: learnt by heart"
    ),
    "forgetting_perplexity": Question("Perplexity, not to be forgotten", "of general text", 2),
    "forgetting_perplexity_ratio": Question(
        "Perplexity beside the base's, not to be forgotten", "above 1: something was forgotten"
    ),
    "forgetting_exact_match": Question(
        "Right answers, not to be forgotten", "of what the base was asked before", 1, True
    ),
}
"""The metrics that are known, in the order of the table."""


def question(name: str) -> Question:
    """Return what a metric asks; one that is not known is called by its name."""
    return QUESTIONS.get(name, Question(name.replace("_", " "), ""))


def words(kind: str) -> str:
    """Return a verdict's kind as words."""
    return kind.replace("_", " ")


def number(value: float | None, asked: Question, signed: bool = False) -> str:
    """Write a metric's value; a difference has its sign, and one of shares is in points."""
    if value is None:
        return "–"
    scaled = 100 * value if asked.share else value
    text = f"{scaled:{'+' if signed else ''}.{asked.digits}f}"
    if float(text) == 0:  # no sign where nothing is left to have one
        text = text.lstrip("+-")
    unit = ("" if signed else "\u00a0%") if asked.share else ""
    return text.replace("-", "−") + unit


def difference(value: Difference, asked: Question) -> str:
    """Write a difference with its interval."""
    text = number(value.mean, asked, signed=True)
    if value.low is not None and value.high is not None:
        low, high = (number(bound, asked, signed=True) for bound in (value.low, value.high))
        text += f" [{low}, {high}]"
    return text + (" points" if asked.share else "")


def label(variant: Variant) -> str:
    """Return what a variant is called: the adapter and its strength."""
    if variant.adapter is None or variant.strength is None:
        return variant.adapter or variant.name
    return f"{variant.adapter} ×\u00a0{plain(variant.strength)}"


def plain(value: float) -> str:
    """Write a strength or a timestep."""
    return f"{value:g}".replace("-", "−")
