"""What a model answers does not depend on the state that its user left it in, nor on what other threads do with it."""

import functools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import FAMILY_NAMES, TEXT_FAMILIES, make_inputs, make_split, make_supernet, write_text_checkpoint
from helpers.federated import make_processor

from raffm_utils import Supernet, evaluate, export_submodel, load_submodel, measure_latency_ms, predict
from raffm_utils.errors import CheckpointError, DeploymentError
from raffm_utils.evaluation import in_eval_mode, logits_of
from raffm_utils.supernet import checkpoints

DROPOUT = {kind: dict(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5) for kind in FAMILY_NAMES}
DROPOUT["distilbert"] = dict(dropout=0.5, attention_dropout=0.5)


def trained(kind):
    """A model in training mode, part of it in eval mode, as partial fine-tuning leaves it."""
    supernet = make_supernet(kind, **DROPOUT[kind])
    model = supernet.extract(supernet.full, copy=True).train()
    model.get_submodule(supernet.family.attention_module.format(layer=0)).eval()
    return model


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_a_model_in_training_mode_is_measured_without_dropout_and_stays_as_it_is(kind):
    model, data = trained(kind), make_split(kind, examples=12)
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    seen = []
    first = evaluate(model, data, on_progress=lambda done, total: seen.append([m.training for m in model.modules()]))
    assert seen == [before]  # not changed meanwhile either
    assert evaluate(model, data).loss == first.loss
    measure_latency_ms(model, make_inputs(kind), seconds=0.01)
    assert [module.training for module in model.modules()] == before
    assert all(p.requires_grad for p in model.parameters())
    assert first.loss == pytest.approx(evaluate(model.eval(), data).loss, abs=1e-6)


def test_the_twin_shares_the_weights_and_runs_nothing_of_the_model_itself():
    model, given = trained("bert"), make_inputs("bert")
    twin = in_eval_mode(model)
    assert {p.data_ptr() for p in twin.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert in_eval_mode(twin) is twin
    model.bert.encoder.forward = functools.partial(model.bert.encoder.forward)  # as accelerate wraps it
    with torch.inference_mode():
        assert torch.equal(in_eval_mode(model)(**given).logits, twin(**given).logits)
    original = model.forward
    model.forward = lambda **inputs: original(**inputs)
    with pytest.raises(CheckpointError, match=r"training mode .*replaced by a closure\): call model\.eval\(\) first"):
        in_eval_mode(model)
    del model.forward
    model.held = threading.Lock()
    with pytest.raises(CheckpointError, match=r"cannot be copied.*call model\.eval\(\) first"):
        in_eval_mode(model)
    assert in_eval_mode(model.eval()) is model


def test_two_evaluations_of_one_model_do_not_disturb_each_other():
    model, small, large = trained("bert"), make_split("bert", examples=4), make_split("bert", examples=60)
    alone = evaluate(model, large, batch_size=20).loss
    begun, between, ended = (threading.Event() for _ in range(3))

    def wait(done: int, total: int) -> None:
        between.set()
        assert ended.wait(20)

    def first() -> None:
        evaluate(model, small, on_progress=lambda done, total: (begun.set(), between.wait(20)))
        ended.set()

    with ThreadPoolExecutor(2) as pool:
        short = pool.submit(first)
        assert begun.wait(20)
        measured = pool.submit(evaluate, model, large, batch_size=20, on_progress=wait).result()
        short.result()
    assert measured.loss == pytest.approx(alone, abs=1e-6)
    assert model.training


def test_sentences_in_several_threads_get_the_answers_they_get_alone(tmp_path):
    supernet = Supernet.from_pretrained(write_text_checkpoint(tmp_path, "bert"))
    model = supernet.extract(supernet.full)
    sentences = ["good film " * 30, "a bad film", "very good " * 40, "."]
    alone = [predict(model, supernet.processor, sentence) for sentence in sentences]
    assert [bool(one.note) for (one,) in alone] == [True, False, True, False]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: predict(model, supernet.processor, sentences[n % 4]), range(400)))
    for number, answer in enumerate(answers):
        assert answer == alone[number % 4]


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_a_model_is_exported_as_it_is_in_eval_mode(kind, tmp_path):
    model, given = trained(kind), make_inputs(kind)
    formats = ("safetensors", "pt2") if kind == "bert" else ("safetensors",)
    export_submodel(model, tmp_path / "out", formats)
    assert model.training
    with torch.inference_mode():
        wanted = model.eval()(**given).logits
        torch.testing.assert_close(load_submodel(tmp_path / "out")(**given).logits, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", TEXT_FAMILIES)
def test_a_network_that_returns_tuples_answers_like_any_other(kind, tmp_path):
    plain, tuples = (make_supernet(kind, return_dict=given, output_hidden_states=not given) for given in (True, False))
    data, given, config = make_split(kind), make_inputs(kind), plain.space.smallest()
    one, other = plain.extract(config), tuples.extract(config)
    assert isinstance(other(**given), tuple)
    assert torch.equal(logits_of(one, given), logits_of(other, given))
    assert evaluate(one, data).loss == evaluate(other, data).loss
    export_submodel(other, tmp_path / "out", ("safetensors", "pt2") if kind == "bert" else ("safetensors",))
    assert torch.equal(logits_of(load_submodel(tmp_path / "out"), given), logits_of(one, given))
    measure_latency_ms(other, seconds=0.01, tokens=5)


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_a_checkpoint_whose_configuration_asks_for_tuples_is_used_like_any_other(kind, tmp_path):
    supernet, data = make_supernet(kind), make_split(kind)
    checkpoints.save(tmp_path / "net", supernet.model, supernet.spec, None, torch.float32)
    path = tmp_path / "net" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"return_dict": False}))
    model = Supernet.from_pretrained(tmp_path / "net").extract(supernet.full)
    assert evaluate(model, data).loss == evaluate(supernet.extract(supernet.full), data).loss
    export_submodel(model, tmp_path / "out", ("safetensors",))


NOT_SINGLE = {
    "one output": (dict(num_labels=1, id2label={0: "similarity"}), "1 output"),
    "regression": (dict(num_labels=5, problem_type="regression"), "'regression'"),
    "several labels": (dict(num_labels=5, problem_type="multi_label_classification"), "'multi_label_classification'"),
}


@pytest.mark.parametrize(("changes", "said"), NOT_SINGLE.values(), ids=NOT_SINGLE)
def test_heads_that_are_not_for_one_of_several_classes_get_no_answers(changes, said, tmp_path):
    folder = write_text_checkpoint(tmp_path / "net", "bert", **{"id2label": dict(enumerate("abcde")), **changes})
    supernet = Supernet.from_pretrained(folder)
    model, words = supernet.extract(supernet.full), supernet.processor
    said = f"is for {said}, not for exactly one of several classes: use its logits yourself"
    for names in (tuple("abcde"), ("similarity",)):
        with pytest.raises(CheckpointError, match=said):
            evaluate(model, make_split("bert", label_names=names))
    with pytest.raises(CheckpointError, match=said):
        predict(model, words, "good")
    with pytest.raises(DeploymentError, match=f"predict.py .*{said}.*or export with processor=None"):
        export_submodel(model, tmp_path / "no", ("onnx",), processor=words)
    export = export_submodel(model, tmp_path / "out", ("safetensors",), processor=words)
    assert len(export.labels) == model.config.num_labels
    with torch.inference_mode():
        given = make_inputs("bert")
        assert torch.equal(load_submodel(tmp_path / "out")(**given).logits, model(**given).logits)


def test_labels_numbered_as_text_keep_their_order(tmp_path):
    names = tuple(f"class {number}" for number in range(12))
    folder = write_text_checkpoint(tmp_path / "net", "bert", num_labels=12, id2label=dict(enumerate(names)))
    supernet = Supernet.from_pretrained(folder)
    model, words = supernet.extract(supernet.full), supernet.processor
    answers, data = predict(model, words, ["good film", "bad"]), make_split("bert", label_names=names)
    loss = evaluate(model, data).loss
    model.config.id2label = {str(number): name for number, name in enumerate(names)}
    assert predict(model, words, ["good film", "bad"]) == answers
    assert evaluate(model, data).loss == loss
    assert export_submodel(model, tmp_path / "out", ("safetensors",)).labels == names


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4, 5), (0, "0", 1, 2, 3), ("a", "b", "c", "d", "e"), (0, 1, 2, 3, None)])
def test_labels_that_number_no_classes_are_refused(numbers):
    model = make_supernet("vit").model
    model.config.__dict__["id2label"] = dict(zip(numbers, "abcde", strict=True))
    with pytest.raises(CheckpointError, match=f"numbers its labels {numbers[0]}, .*: number them from 0, each once"):
        evaluate(model, make_split("vit"))


def test_labels_that_leave_out_a_row_of_the_classifier_are_refused():
    model = make_supernet("vit").model
    model.config.id2label = dict(enumerate("abcd"))
    with pytest.raises(
        CheckpointError, match=r"gives logits of shape \(30, 5\), but its configuration names 4 classes"
    ):
        evaluate(model, make_split("vit", label_names=tuple("abcd")))


def test_a_network_for_grey_pictures_is_refused_where_pictures_are_read(tmp_path):
    supernet = make_supernet("vit", num_channels=1, id2label=dict(enumerate("abcde")))
    model = supernet.extract(supernet.full)
    said = r"takes pictures of 1 channels .*read as red, green and blue: take a network of 3"
    with pytest.raises(CheckpointError, match=said):
        evaluate(model, make_split("vit"))
    with pytest.raises(DeploymentError, match=f"predict.py .*{said}.*or export with processor=None"):
        export_submodel(model, tmp_path / "out", ("onnx",), processor=make_processor())
    export_submodel(model, tmp_path / "out", ("safetensors", "pt2"))
    measure_latency_ms(model, seconds=0.01)
