"""Sentences of one's own: the answers are the model's, and what it cannot answer is said."""

from pathlib import Path

import pytest
import torch
from conftest import TEXT_FAMILIES, make_supernet, make_tokenizer, some_configs, write_text_checkpoint
from tokenizers import Tokenizer
from transformers import ViTImageProcessorPil

from raffm_utils import Answer, Supernet, evaluate, load_split, predict
from raffm_utils.deployment.predict_text import prepare
from raffm_utils.errors import CheckpointError, DataError

SENTENCES = ["a good film .", "bad", "a bad film", "good ."]


@pytest.fixture(params=TEXT_FAMILIES)
def supernet(request: pytest.FixtureRequest, tmp_path: Path) -> Supernet:
    return Supernet.from_pretrained(write_text_checkpoint(tmp_path, request.param))


def test_answers_are_the_models(supernet):
    words = supernet.processor
    for config in some_configs(supernet, 3):
        model = supernet.extract(config)
        model.train()
        found = predict(model, words, SENTENCES)
        assert model.training
        model.eval()
        for sentence, prediction in zip(SENTENCES, found, strict=True):
            with torch.inference_mode():
                share = model(words(sentence, return_tensors="pt")["input_ids"]).logits.softmax(dim=1)[0]
            shares = dict(zip(("negative", "positive"), share.tolist(), strict=True))
            assert prediction == Answer(sentence, pytest.approx(shares, abs=1e-5), note="")
            assert prediction.label == ("negative", "positive")[int(share.argmax())]
            assert prediction.probability == prediction.probabilities[prediction.label]
        (alone,) = predict(model, words, SENTENCES[0])
        assert alone.label == found[0].label
        assert alone.probability == pytest.approx(found[0].probability, abs=1e-5)
    assert predict(model, words, []) == []
    assert [one.sentence for one in predict(model, words, SENTENCES * 20)] == SENTENCES * 20


@pytest.mark.parametrize("sentence", ["", " \n\t", "\u00a0\u3000"])
def test_nothing_written(supernet, sentence):
    with pytest.raises(DataError, match="is empty: write"):
        predict(supernet.model, supernet.processor, ["good", sentence])
    with pytest.raises(DataError, match="None is not text"):
        predict(supernet.model, supernet.processor, ["good", None])


def test_ten_thousand_words_are_cut_and_it_is_said(supernet):
    kind = supernet.family.model_type
    most = 22 if kind == "roberta" else 24
    for words in (supernet.processor, make_tokenizer(kind)):  # the second has no limit of its own
        (long,) = predict(supernet.model, words, "good film " * 5000)
        whole = len(words("good film " * 5000, verbose=False)["input_ids"])
        assert whole > 10_000
        assert long.note == f"cut to {most} of {whole:,} tokens"
    with torch.inference_mode():
        ids = words("good film " * 20, truncation=True, max_length=most, return_tensors="pt")["input_ids"]
        share = supernet.model(ids).logits.softmax(dim=1)
    assert long.probability == pytest.approx(float(share.max()), abs=1e-5)


@pytest.mark.parametrize("sentence", ["これは良い映画です", "фильм", "\U0001f600", "[SEP]", "\u200b"])
def test_text_that_no_word_is_known_of_gets_no_answer(tmp_path, sentence):
    supernet = Supernet.from_pretrained(write_text_checkpoint(tmp_path, "bert"))
    with pytest.raises(DataError, match=r"knows no word of .*: write in the language and script"):
        predict(supernet.model, supernet.processor, sentence)
    (half,) = predict(supernet.model, supernet.processor, "good фильм")
    assert half.note == "1 of 2 tokens unknown"
    (long,) = predict(supernet.model, supernet.processor, "good фильм " * 100)
    assert long.note == "cut to 24 of 202 tokens; 11 of 22 tokens unknown"


@pytest.mark.parametrize("sentence", ["фильм", "とても良い", "\u05d8\u05d5\u05d1 \u05de\u05d0\u05d5\u05d3"])
def test_text_that_is_read_sign_by_sign_is_noted(tmp_path, sentence):
    supernet = Supernet.from_pretrained(write_text_checkpoint(tmp_path, "roberta"))  # bytes: nothing is unknown
    assert predict(supernet.model, supernet.processor, sentence)[0].note.startswith("read sign by sign")


HALF, PAIR = "\ud83d", "\ud83d\ude00"


def test_half_a_surrogate_pair_costs_no_sentence_its_answer(supernet):
    words = supernet.processor
    plain, half, front, pair, emoji = predict(
        supernet.model, words, ["good film", f"good film {HALF}", f"{HALF}good film", f"good {PAIR}", "good 😀"]
    )
    for damaged in (half, front):
        assert "half a surrogate pair read as an unknown sign" in damaged.note
        assert len(damaged.probabilities) == 2
    assert not any("surrogate" in whole.note for whole in (plain, pair, emoji))
    assert pair.probabilities == pytest.approx(emoji.probabilities)
    if supernet.family.model_type != "roberta":  # its bytes know every sign
        assert half.probabilities == pytest.approx(plain.probabilities)
    given = {"max_length": 24, "cut": "right", "pad_id": words.pad_token_id}
    made = prepare([f"good film {HALF}"], given, Tokenizer.from_str(words.backend_tokenizer.to_str()))
    assert made["input_ids"].tolist() == [words("good film \ufffd")["input_ids"]]


def test_two_classes_of_one_name_get_no_answer(tmp_path):
    labels = {0: "neutral", 1: "negative", 2: "neutral"}
    supernet = Supernet.from_pretrained(write_text_checkpoint(tmp_path, "bert", num_labels=3, id2label=labels))
    model = supernet.extract(supernet.space.largest())
    with pytest.raises(CheckpointError, match=r"classes 0 and 2 are both named 'neutral'.*id2label\[2\] = 'neutral 2'"):
        predict(model, supernet.processor, "good")
    model.config.id2label[2] = "neutral 2"
    assert sum(predict(model, supernet.processor, "good")[0].probabilities.values()) == pytest.approx(1)


def test_what_does_not_belong_together(supernet):
    with pytest.raises(DataError, match="tokenizer, not a ViTImageProcessorPil"):
        predict(supernet.model, ViTImageProcessorPil(), "good")
    with pytest.raises(DataError, match=r"ViT.* takes pixel_values"):
        predict(make_supernet("vit").model, supernet.processor, "good")


def test_another_number_of_labels_than_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("RAFFM_CACHE", str(tmp_path / "cache"))
    labels = dict(enumerate(("bad", "mixed", "good")))
    supernet = Supernet.from_pretrained(write_text_checkpoint(tmp_path, "bert", num_labels=3, id2label=labels))
    data = load_split("movie_reviews", "test", limit=5, processor=supernet.processor)
    with pytest.raises(CheckpointError, match="has 3 classes, but movie_reviews has 2"):
        evaluate(supernet.extract(supernet.full), data)
