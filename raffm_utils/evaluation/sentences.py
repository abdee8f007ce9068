"""Classification of arbitrary sentences by a text model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ..data import MAX_TOKENS, Tokens, token_ids, whole_signs
from ..errors import CheckpointError, DataError
from ..space import FAMILIES
from .accuracy import checked_logits
from .answers import class_names, in_eval_mode

BATCH_SIZE = 32
# Tokens per character from which text counts as spelled out. MiniLM's tokenizer takes 0.67 at most for a sentence of
# `movie_reviews`, and 0.95 or more for Arabic, Chinese, Greek, Japanese or Russian, whose words it does not have.
SPELLED_OUT = 0.8


@dataclass(frozen=True)
class Answer:
    """A model's answer to one sentence: the probability of each label, from 0 to 1.

    `note` says why the answer may be unreliable: text was cut or damaged, words are unknown or spelled out.
    """

    sentence: str
    probabilities: Mapping[str, float]
    note: str = ""

    @property
    def label(self) -> str:
        """The most probable label."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def probability(self) -> float:
        """The probability of that label."""
        return self.probabilities[self.label]


def predict(model: PreTrainedModel, processor: Any, sentences: str | Sequence[str]) -> list[Answer]:
    """Classify one sentence or several, in order; `processor` is the supernet's tokenizer.

    Text longer than the model's limit is cut, which the note mentions. Raises `DataError` for text that is empty or
    contains no word the tokenizer knows, because an answer would be meaningless, and `CheckpointError` for a model
    that is no single-label classifier, or of which two classes have the same name.
    """
    Tokens.check(processor)
    names = _distinct_names(model)
    sentences = [sentences] if isinstance(sentences, str) else list(sentences)
    if not sentences:
        return []
    limit = min(processor.model_max_length, MAX_TOKENS)
    if (family := FAMILIES.get(model.config.model_type)) is not None and not family.is_image:
        limit = min(limit, family.positions(model.config))
    frame = {*processor.all_special_ids} - {processor.unk_token_id}
    prepared = [_tokens(sentence, processor, limit, frame) for sentence in sentences]
    data = Tokens.of([ids for ids, _ in prepared], processor)
    shares: dict[int, torch.Tensor] = {}
    model = in_eval_mode(model)
    with torch.inference_mode():
        # like `Split.batches`: sentences of like length together
        for rows in data.order(torch.arange(len(sentences), device="cpu")).split(BATCH_SIZE):
            logits = checked_logits(model, data.batch(rows), "a sentence", len(names))
            shares.update(zip(rows.tolist(), logits.softmax(dim=1), strict=True))
    return [
        Answer(sentence, dict(zip(names, shares[i].tolist(), strict=True)), note)
        for i, (sentence, (_, note)) in enumerate(zip(sentences, prepared, strict=True))
    ]


def _distinct_names(model: PreTrainedModel) -> list[str]:
    names = class_names(model)
    for number, name in enumerate(names):
        if name in names[:number]:
            raise CheckpointError(
                f"classes {names.index(name)} and {number} are both named {name!r}, which no answer could tell apart: "
                f"rename one, as in model.config.id2label[{number}] = '{name} {number}'"
            )
    return names


def _tokens(sentence: str, processor: Any, limit: int, frame: set[int]) -> tuple[list[int], str]:
    """The tokens for the model and a note about them; `frame` are the tokens that represent no text."""
    if not isinstance(sentence, str):
        raise DataError(f"{sentence!r} is not text: give sentences as strings")
    shown = repr(sentence if len(sentence) <= 40 else sentence[:40] + "...")
    if not sentence.strip():
        raise DataError(f"the sentence {shown} is empty: write at least one word")
    text = whole_signs(sentence)
    (whole,) = token_ids(processor, [text])
    (kept,) = [whole] if len(whole) <= limit else token_ids(processor, [text], limit)
    words = [token for token in kept if token not in frame]
    unknown = words.count(processor.unk_token_id)
    if unknown == len(words):
        raise DataError(
            f"the tokenizer knows no word of {shown}: write in the language and script that the model was trained on"
        )
    notes = [f"cut to {len(kept):,} of {len(whole):,} tokens"] if len(kept) < len(whole) else []
    notes += [f"{unknown:,} of {len(words):,} tokens unknown"] if unknown else []
    notes += (
        ["half a surrogate pair read as an unknown sign"] if text.count("\ufffd") > sentence.count("\ufffd") else []
    )
    signs = len("".join(sentence.split()))
    if len(whole) - len(kept) + len(words) > SPELLED_OUT * signs and signs >= 2 * len(sentence.split()):
        notes.append("read sign by sign: the tokenizer has hardly a word of this language")
    return kept, "; ".join(notes)
