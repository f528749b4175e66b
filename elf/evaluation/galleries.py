"""The pictures of the page: pairs, strengths × seeds, trigger on and off, nearest ones."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from elf.evaluation.pictures import Embedded, embed
from elf.evaluation.schema import Metrics, Nearest, Variant
from elf.evaluation.words import label, plain

NEAREST = 12  # that are shown at once; the others open
PAIRS = 6  # prompts with and without the trigger that are shown at once


class Album:
    """Gives a picture's place in the page: its data the first time, then a reference to them."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        files = [each.file for each in metrics.pictures]
        files += [each.training for each in metrics.nearest]
        self._found = embed(folder, files)
        self._numbers: dict[str, int] = {}
        self._ranks = {each.name: place for place, each in enumerate(metrics.variants)}
        self.metrics = metrics

    def shot(self, variant: Variant, prompt: int, seed: int) -> str:
        """Return a variant's picture of a prompt (its place) and a seed."""
        picture = self.metrics.picture(variant.name, prompt, seed)
        caption = self.caption(variant, prompt, seed)
        if picture is None:
            return _gap("not drawn", caption)
        return self.file(picture.file, caption, f"{prompt}-{seed}", self._ranks[variant.name])

    def caption(self, variant: Variant, prompt: int, seed: int) -> str:
        """Say what a picture is: prompt, seed, variant, strength."""
        text = f"{self.metrics.plan.prompts[prompt]} · seed {seed} · {variant.adapter or 'base'}"
        return text if variant.strength is None else f"{text} · strength {plain(variant.strength)}"

    def file(self, name: str, caption: str, of: str, rank: int) -> str:
        """Return a picture that opens.

        Args:
            name: Of its file.
            caption: What it is.
            of: Pictures with the same can be flicked through in the viewer,
            rank: in this order.
        """
        found = self._found[name]
        if not isinstance(found, Embedded):
            return _gap(f"{name}: {found.why}", caption)
        first = name not in self._numbers
        number = self._numbers.setdefault(name, len(self._numbers))
        data = f'id="p{number}" src="{found.source}"' if first else f'data-same="p{number}"'
        small = ' class="small"' if found.small else ""
        return (
            f'<button type="button" class="shot" data-picture="{number}"'
            f' data-of="{of}" data-rank="{rank}">'
            f'<img {data}{small} width="{found.width}" height="{found.height}"'
            f' decoding="async" alt="{escape(caption)}"></button>'
        )


def _gap(why: str, caption: str) -> str:
    return f'<div class="gap" role="img" aria-label="{escape(caption)}">{escape(why)}</div>'


def _label(variant: Variant) -> str:
    return escape(label(variant))


def pairs(album: Album) -> str:
    """Return base and adapters side by side, by prompt and seed."""
    metrics = album.metrics
    variants = (metrics.base, *metrics.shown_variants)
    drawn = {each.prompt for each in metrics.pictures}
    text = ""
    for prompt in range(len(metrics.plan.prompts)):
        if prompt not in drawn:
            continue
        sets = "".join(
            f'<div class="set">{_figures(album, variants, prompt, seed)}</div>'
            for seed in metrics.plan.seeds
        )
        text += f'<h3>{_named(metrics, prompt)}</h3><div class="sets">{sets}</div>'
    return f'<div style="--n:{len(variants)}">{text}</div>' if text else ""


def _named(metrics: Metrics, prompt: int) -> str:
    """Return a prompt, marked if it has the trigger."""
    chip = ' <span class="chip">trigger</span>' if metrics.plan.triggered[prompt] else ""
    return f"{escape(metrics.plan.prompts[prompt]) or '(empty prompt)'}{chip}"


def _figures(album: Album, variants: Sequence[Variant], prompt: int, seed: int) -> str:
    return "".join(
        f"<figure>{album.shot(variant, prompt, seed)}"
        f"<figcaption>{_label(variant)}{'' if place else f' · seed {seed}'}</figcaption></figure>"
        for place, variant in enumerate(variants)
    )


def strengths(album: Album) -> str:
    """Return, for each prompt, a grid of strengths (across) and seeds (down) of each adapter."""
    metrics = album.metrics
    swept = [name for name in metrics.adapters if len(metrics.strengths(name)) > 1]
    drawn = sorted({each.prompt for each in metrics.pictures})
    text = ""
    for prompt in drawn if swept else []:
        grids = "".join(_grid(album, adapter, prompt) for adapter in swept)
        opened = " open" if prompt == drawn[0] else ""
        text += (
            f"<details{opened}><summary>{_named(metrics, prompt)}</summary>"
            f'<div class="grids">{grids}</div></details>'
        )
    return text


def _grid(album: Album, adapter: str, prompt: int) -> str:
    metrics = album.metrics
    variants = (metrics.base, *metrics.strengths(adapter))
    verdict = metrics.recommended(adapter)
    best = metrics.shown(adapter) if verdict and verdict.strength is not None else None
    names = "".join(
        f'<th scope="col"{" class=best" if each == best else ""}>'
        f"{'base' if each.strength is None else plain(each.strength)}</th>"
        for each in variants
    )
    rows = "".join(
        f'<tr><th scope="row"><span class="wide">seed </span>{seed}</th>'
        + "".join(
            f"<td{' class=best' if each == best else ''}>{album.shot(each, prompt, seed)}</td>"
            for each in variants
        )
        + "</tr>"
        for seed in metrics.plan.seeds
    )
    return (
        f'<table class="grid"><caption>{escape(adapter)}</caption>'
        f'<thead><tr><th scope="col"><span class="wide">strength</span></th>{names}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def trigger(album: Album) -> str:
    """Return prompts with the trigger beside the same without it, of base and adapters."""
    metrics = album.metrics
    found = trigger_pairs(metrics)
    drawn = {each.prompt for each in metrics.pictures}
    found = [pair for pair in found if drawn.issuperset(pair)]
    if not found or not metrics.plan.seeds:
        return ""
    variants = (metrics.base, *metrics.shown_variants)
    cards = [_switch(album, variants, on, off, metrics.plan.seeds[0]) for on, off in found]
    text = f'<div class="cards" style="--n:{len(variants)}">{"".join(cards[:PAIRS])}</div>'
    if len(cards) > PAIRS:
        text += (
            f"<details><summary>{len(cards) - PAIRS} more</summary>"
            f'<div class="cards" style="--n:{len(variants)}">{"".join(cards[PAIRS:])}</div>'
            "</details>"
        )
    return text


def _switch(album: Album, variants: Sequence[Variant], on: int, off: int, seed: int) -> str:
    names = "".join(f'<th scope="col">{_label(each)}</th>' for each in variants)
    rows = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td>{album.shot(each, prompt, seed)}</td>" for each in variants)
        + "</tr>"
        for name, prompt in (("on", on), ("off", off))
    )
    prompts = album.metrics.plan.prompts
    return (
        f'<table class="grid switch"><caption>{escape(prompts[on])}<br>'
        f'<span class="note">off: {escape(prompts[off])} · seed {seed}</span></caption>'
        f"<thead><tr><td></td>{names}</tr></thead><tbody>{rows}</tbody></table>"
    )


def trigger_pairs(metrics: Metrics) -> list[tuple[int, int]]:
    """Return the places of prompts with the trigger and of the same without it.

    They belong together if the one has the text of the other in it, the shortest such first.
    """
    plan = metrics.plan
    on = sorted(
        (place for place, has in enumerate(plan.triggered) if has),
        key=lambda place: (len(plan.prompts[place]), place),
    )
    found, taken = [], set()
    for off in (place for place, has in enumerate(plan.triggered) if not has):
        text = plan.prompts[off].strip(" ,.").lower()
        for place in on:
            if place not in taken and text and text in plan.prompts[place].lower():
                found.append((place, off))
                taken.add(place)
                break
    return found


def nearest(album: Album) -> str:
    """Return each adapter picture beside its nearest training picture, the most alike first."""
    ranked = sorted(
        album.metrics.nearest,
        key=lambda each: (-each.similarity, each.variant, each.prompt, each.seed),
    )
    cards = [_likeness(album, each) for each in ranked]
    if not cards:
        return ""
    copies = sum(each.copy for each in ranked)
    said = f"{copies} of {len(ranked)} pictures" if copies else f"None of {len(ranked)} pictures"
    text = f'<p class="note">{said} copy a training picture. Left: generated; right: training.</p>'
    text += f'<div class="cards">{"".join(cards[:NEAREST])}</div>'
    if len(cards) > NEAREST:
        text += (
            f"<details><summary>{len(cards) - NEAREST} less alike</summary>"
            f'<div class="cards">{"".join(cards[NEAREST:])}</div></details>'
        )
    return text


def _likeness(album: Album, each: Nearest) -> str:
    metrics = album.metrics
    variant, of = metrics.by_name[each.variant], f"{each.prompt}-{each.seed}"
    similarity = f"{each.similarity:.2f}".replace("-", "−")
    caption = f"training picture {each.training} · similarity {similarity}"
    chip = ' <span class="chip bad">copy</span>' if each.copy else ""
    prompt = escape(metrics.plan.prompts[each.prompt])
    return (
        f'<figure class="twin{" copy" if each.copy else ""}">'
        f'<div class="two">{album.shot(variant, each.prompt, each.seed)}'
        f"{album.file(each.training, caption, of, len(metrics.variants))}</div>"
        f"<figcaption><b>{similarity}</b>{chip} {_label(variant)} · seed {each.seed}"
        f'<span class="line">{prompt}</span></figcaption></figure>'
    )
