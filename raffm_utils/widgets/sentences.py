"""Sentences as classified by several networks: a table, a figure, and a box to type your own."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets
from transformers import PreTrainedModel

from ..errors import DataError
from ..evaluation import Answer, predict
from ..plotting import BLUE, GREEN, PURPLE, VERMILION, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Answers = Mapping[str, Sequence[Answer]]  # name of a network -> its answers, sentence by sentence
STYLE = "<style>.raffm-answers td, .raffm-answers th { text-align: left !important; padding-right: 14px; }</style>"


def answers_html(answers: Answers, truth: Sequence[str] | None = None) -> str:
    """A table with one row per sentence: the true label where it is known, and every network's answer."""
    heads = ["sentence", *(["label"] if truth else []), *answers]
    rows = []
    for i, column in enumerate(zip(*answers.values(), strict=True)):
        cells = [escape(column[0].sentence), *([escape(truth[i])] if truth else [])]
        for one in column:
            wrong = " ✗" if truth and one.label != truth[i] else ""
            cells.append(f"{escape(one.label)}{wrong} ({one.probability:.0%})")
        note = f"<br><small>{escape(column[0].note)}</small>" if column[0].note else ""
        rows.append("".join(f"<td>{cell}{note if place == 0 else ''}</td>" for place, cell in enumerate(cells)))
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'{STYLE}<table class="raffm-answers"><tr>{top}</tr>{body}</table>'


def plot_answers(
    answers: Answers, label: str, truth: Sequence[str] | None = None, ax: "Axes | None" = None, *, width: int = 70
) -> "Axes":
    """The probability of `label` according to every network, sentence by sentence; returns the Axes.

    Sentences are cut to `width` characters. With `truth`, the true label follows the sentence.
    """
    columns = list(answers.values())
    sentences = [one.sentence for one in columns[0]] if columns else []
    if not sentences or label not in columns[0][0].probabilities:
        raise DataError(f"nothing to draw for label {label!r}: give answers of a network that knows it")
    ax = ax or new_axes((9.0, 1.4 + 0.42 * len(sentences)))
    places = range(len(sentences))
    shares = [[one.probabilities[label] for one in column] for column in columns]
    ax.hlines(places, list(map(min, *shares, shares[0])), list(map(max, *shares, shares[0])), color="#999999")
    marks = ((BLUE, "o"), (VERMILION, "D"), (GREEN, "s"), (PURPLE, "^"))
    for place, (name, share) in enumerate(zip(answers, shares, strict=True)):
        colour, marker = marks[place % len(marks)]
        ax.scatter(share, places, color=colour, marker=marker, edgecolors="black", label=name, zorder=3)
    shown = [text if len(text) <= width else text[: width - 1] + "…" for text in sentences]
    shown = [text.replace("$", r"\$") for text in shown]  # a single one would begin a formula
    ax.set_yticks(places, [f"{text}  [{truth[i]}]" if truth else text for i, text in enumerate(shown)], fontsize=9)
    ax.invert_yaxis()
    ax.axvline(0.5, color="#b0b0b0", linestyle="--", linewidth=0.8)
    ax.set_xlim(-0.03, 1.03)
    ax.set_xlabel(f"Probability of “{label}”")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(columns), frameon=False)
    return ax


class SentenceBox(ipywidgets.VBox):
    """A box to type a sentence into; every network's answer appears below while one types.

    `models` are networks by name, `processor` is the tokenizer that they share.
    """

    def __init__(
        self, models: Mapping[str, PreTrainedModel], processor: Any, sentence: str = "a clever, touching film"
    ) -> None:
        self.models, self.processor = models, processor
        layout = {"width": "auto", "max_width": "860px"}  # at 100% its margins would stick out
        self.box = ipywidgets.Text(sentence, description="Sentence", continuous_update=True, layout=layout)
        self.answer = ipywidgets.HTML()
        self.box.observe(lambda change: self._show(change["new"]), names="value")
        super().__init__([self.box, self.answer])
        self._show(sentence)

    def _show(self, sentence: str) -> None:
        if not sentence.strip():
            self.answer.value = "Type a sentence."
            return
        try:
            found = {name: predict(model, self.processor, sentence) for name, model in self.models.items()}
            self.answer.value = answers_html(found)
        except Exception as error:  # shown in place, where no one reads a traceback
            self.answer.value = f'<div role="alert">{escape(str(error) or type(error).__name__)}</div>'
