"""Classify sentences with an exported submodel: python predict.py model.onnx "what a film" ..."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def whole_signs(text: str) -> str:
    """The text with U+FFFD in place of every half surrogate pair, which no tokenizer takes."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def prepare(sentences: list[str], settings: dict[str, Any], tokenizer: Any) -> dict[str, np.ndarray]:
    """The tokens that the network was trained on, padded to the longest; settings are in the file's metadata."""
    tokenizer.enable_truncation(settings["max_length"], direction=settings["cut"])
    tokenizer.enable_padding(pad_id=settings["pad_id"])
    found = tokenizer.encode_batch([whole_signs(sentence) for sentence in sentences])
    ids, mask = (np.array([getattr(row, key) for row in found], np.int64) for key in ("ids", "attention_mask"))
    return {"input_ids": ids, "attention_mask": mask}


def main(model: str, *sentences: str) -> None:
    """Print sentence, most likely class and its probability."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    tokenizer = Tokenizer.from_file(str(Path(model).with_name("tokenizer.json")))
    logits = session.run(None, prepare(list(sentences), facts["preprocessing"], tokenizer))[0]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    for sentence, row in zip(sentences, shares / shares.sum(axis=1, keepdims=True), strict=True):
        print(whole_signs(sentence), facts["labels"][row.argmax()], f"{row.max():.4f}", sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
