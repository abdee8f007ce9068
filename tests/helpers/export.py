"""Processors, real sentences and splits that the tests of exporting share."""

from typing import Any

import datasets
import torch
from helpers.federated import learnable_split, make_processor
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from raffm_utils.data import Split, Tokens
from raffm_utils.supernet import Supernet

SENTENCES = (
    "it 's a charming and often affecting journey .",
    "unflinchingly bleak and desperate",
    "allows us to hope that nolan is poised to embark a major career .",
    "the acting , costumes , music , cinematography and sound are all astounding .",
    "it 's slow -- very , very slow .",
    "a sometimes tedious film .",
    "you do n't have to know about music to appreciate the film .",
    "or doing last year 's taxes with your ex-wife .",
)
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})[:50]


def make_tokenizer(pad_id: int = 0, longest: int = 24) -> PreTrainedTokenizerFast:
    """Whole words, of which the tiny networks know 60; what they do not know is [UNK]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    special.insert(pad_id, special.pop(0))
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=longest, **names)


def processor_for(supernet: Supernet) -> Any:
    """What belongs to a tiny network of `conftest.make_model`."""
    if supernet.family.is_image:
        return make_processor()
    return make_tokenizer(supernet.model.config.pad_token_id)


def split_for(supernet: Supernet, split: str = "validation") -> Split:
    """Pictures or real sentences, encoded for a tiny network."""
    if supernet.family.is_image:
        return learnable_split(40, 1, split)
    tokenizer, labels = processor_for(supernet), torch.arange(len(SENTENCES)) % 5
    raw = datasets.Dataset.from_dict({"sentence": list(SENTENCES), "label": labels.tolist()})
    encoded = Tokens.restore(Tokens.encode(raw, tokenizer), len(raw), tokenizer)
    return Split("made_up", split, labels, tuple("abcde"), raw, "made-up", torch.arange(len(raw)), encoded)


def names(labels: tuple[str, ...] = tuple("abcde")) -> dict[str, Any]:
    """Configuration keys that name the classes."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
