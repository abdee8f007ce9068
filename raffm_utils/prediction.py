"""What a text classifier says about sentences of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from .encoding import MAX_TOKENS, Tokens
from .errors import DataError
from .evaluation import eval_mode, logits_of
from .families import FAMILIES

BATCH_SIZE = 32


@dataclass(frozen=True)
class Prediction:
    """The likeliest class of one sentence; `probability`, from 0 to 1, is the model's own.

    `note` says in words what the model did not get to see: text that was cut off, words it does not know.
    """

    sentence: str
    label: str
    probability: float
    note: str = ""


def predict(model: PreTrainedModel, processor: Any, sentences: str | Sequence[str]) -> list[Prediction]:
    """Classify one sentence or several, in order; `processor` is the supernet's tokenizer.

    Text longer than the model's limit is cut, which the note says. Raises `DataError` for text that is empty, or
    of which the tokenizer knows no word, because an answer would mean nothing.
    """
    Tokens.settings(processor)  # refuses what is not a tokenizer
    sentences = [sentences] if isinstance(sentences, str) else list(sentences)
    if not sentences:
        return []
    limit = min(processor.model_max_length, MAX_TOKENS)
    if (family := FAMILIES.get(model.config.model_type)) is not None and not family.is_image:
        limit = min(limit, family.positions(model.config))
    prepared = [_tokens(sentence, processor, limit) for sentence in sentences]
    data = Tokens.of([ids for ids, _ in prepared], processor)
    shares: dict[int, torch.Tensor] = {}
    with eval_mode(model), torch.inference_mode():
        # like `Split.batches`: sentences of like length together
        for rows in data.order(torch.arange(len(sentences))).split(BATCH_SIZE):
            logits = logits_of(model, data.batch(rows), "a sentence")
            shares.update(zip(rows.tolist(), logits.softmax(dim=1), strict=True))
    names: Any = model.config.id2label
    return [
        Prediction(sentence, str(names[int(shares[i].argmax())]), float(shares[i].max()), note)
        for i, (sentence, (_, note)) in enumerate(zip(sentences, prepared, strict=True))
    ]


def _tokens(sentence: str, processor: Any, limit: int) -> tuple[list[int], str]:
    """The tokens that the model gets, and what is to be said about those it does not."""
    shown = repr(sentence if len(sentence) <= 40 else sentence[:40] + "...")
    if not sentence.strip():
        raise DataError(f"the sentence {shown} is empty: write at least one word")
    whole = processor(sentence, verbose=False)["input_ids"]
    kept = whole if len(whole) <= limit else processor(sentence, truncation=True, max_length=limit)["input_ids"]
    unknown_id = processor.unk_token_id
    words = [token for token in kept if token == unknown_id or token not in processor.all_special_ids]
    unknown = words.count(unknown_id)
    if unknown == len(words):
        raise DataError(
            f"the tokenizer knows no word of {shown}: write in the language and script that the model was trained on"
        )
    notes = [f"cut to {len(kept):,} of {len(whole):,} tokens"] if len(kept) < len(whole) else []
    notes += [f"{unknown:,} of {len(words):,} tokens unknown"] if unknown else []
    return kept, "; ".join(notes)
