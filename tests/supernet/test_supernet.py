"""Extraction against a slow implementation of its own, and what an extracted submodel may do and may not."""

import gc
import json
import os
import weakref

import numpy as np
import pytest
import torch
import transformers
from conftest import FAMILY_NAMES, HEADS, SLICINGS, TEXT_FAMILIES, make_inputs, make_supernet, some_configs
from PIL import Image
from safetensors.torch import load_file

from raffm_utils.errors import CheckpointError, ElasticSpaceError
from raffm_utils.space import Budget, SubmodelConfig
from raffm_utils.supernet import PER_HEAD, ElasticSpec, Supernet, checkpoints

CLOSE = dict(rtol=1e-4, atol=1e-4)


def _logits(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits


# --- the slow implementation: lists of kept indices, one head after the other, no module of the library


def _kept(supernet: Supernet, width: int, full: int) -> list[int]:
    if supernet.spec.head_slicing != PER_HEAD:
        return list(range(width))
    size = full // HEADS
    return [head * size + i for head in range(HEADS) for i in range(width // HEADS)]


class Slow:
    """The network of `config` computed from the full weights and the indices that it keeps."""

    def __init__(self, supernet: Supernet, config: SubmodelConfig) -> None:
        self.weights = {name: p.detach().double() for name, p in supernet.model.named_parameters()}
        self.supernet, self.config = supernet, config
        self.hidden = list(range(config.hidden))

    def __call__(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return (self.vit if self.supernet.family.is_image else self.text)(**inputs)

    def linear(self, x, name, rows, columns):
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        rows = range(len(weight)) if rows is None else rows
        return x @ weight[list(rows)][:, list(columns)].T + bias[list(rows)]

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * self.weights[f"{name}.weight"][self.hidden] + self.weights[f"{name}.bias"][self.hidden]

    def attention(self, x, names, width, mask=None):
        full = len(self.weights[f"{names[0]}.weight"])
        kept, size = _kept(self.supernet, width, full), width // HEADS
        query, key, value = (self.linear(x, name, kept, self.hidden) for name in names[:3])
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / size**0.5
            if mask is not None:
                scores = scores.masked_fill(mask[:, None, :] == 0, float("-inf"))
            heads.append(scores.softmax(-1) @ value[..., part])
        return self.linear(torch.cat(heads, -1), names[3], self.hidden, kept)

    def vit(self, pixel_values):
        kernel = self.weights["vit.embeddings.patch_embeddings.projection.weight"][self.hidden]
        bias = self.weights["vit.embeddings.patch_embeddings.projection.bias"][self.hidden]
        x = torch.nn.functional.conv2d(pixel_values.double(), kernel, bias, stride=8).flatten(2).transpose(1, 2)
        first = self.weights["vit.embeddings.cls_token"][..., self.hidden].expand(len(x), 1, -1)
        x = torch.cat([first, x], 1) + self.weights["vit.embeddings.position_embeddings"][..., self.hidden]
        for i, (width, ffn) in enumerate(zip(self.config.attention, self.config.ffn, strict=True)):
            layer = f"vit.layers.{i}"
            names = [f"{layer}.attention.{name}_proj" for name in "qkvo"]
            x = x + self.attention(self.norm(x, f"{layer}.layernorm_before"), names, width)
            inner = self.linear(self.norm(x, f"{layer}.layernorm_after"), f"{layer}.mlp.fc1", range(ffn), self.hidden)
            x = x + self.linear(torch.nn.functional.gelu(inner), f"{layer}.mlp.fc2", self.hidden, range(ffn))
        return self.linear(self.norm(x, "vit.layernorm")[:, 0], "classifier", None, self.hidden)

    def text(self, input_ids, attention_mask):
        kind = self.supernet.family.model_type
        names, embeddings = TEXT_NAMES[kind], f"{kind}.embeddings"
        # RoBERTa's first position is number 2, behind the one of padding
        positions = torch.arange(input_ids.shape[1]) + (2 if kind == "roberta" else 0)
        x = self.weights[f"{embeddings}.word_embeddings.weight"][:, self.hidden][input_ids]
        x = x + self.weights[f"{embeddings}.position_embeddings.weight"][:, self.hidden][positions]
        if kind != "distilbert":
            x = x + self.weights[f"{embeddings}.token_type_embeddings.weight"][:, self.hidden][0]
        x = self.norm(x, f"{embeddings}.LayerNorm")
        for i, (width, ffn) in enumerate(zip(self.config.attention, self.config.ffn, strict=True)):
            *attention, first_norm, first, second, second_norm = (f"{names[0]}.{i}.{name}" for name in names[1:-2])
            x = self.norm(x + self.attention(x, attention, width, attention_mask), first_norm)
            inner = self.linear(x, first, range(ffn), self.hidden)
            outer = self.linear(torch.nn.functional.gelu(inner), second, self.hidden, range(ffn))
            x = self.norm(x + outer, second_norm)
        pooled = self.linear(x[:, 0], names[-2], self.hidden, self.hidden)
        pooled = pooled.relu() if kind == "distilbert" else pooled.tanh()
        return self.linear(pooled, names[-1], None, self.hidden)


_BERT_LAYER = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
_BERT_LAYER += ("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm")
_DISTILBERT_LAYER = tuple(f"attention.{name}_lin" for name in ("q", "k", "v", "out"))
_DISTILBERT_LAYER += ("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm")
# where the layers are, the parts of one, the two layers of the classifier
TEXT_NAMES = {
    "bert": ("bert.encoder.layer", *_BERT_LAYER, "bert.pooler.dense", "classifier"),
    "roberta": ("roberta.encoder.layer", *_BERT_LAYER, "classifier.dense", "classifier.out_proj"),
    "distilbert": ("distilbert.transformer.layer", *_DISTILBERT_LAYER, "pre_classifier", "classifier"),
}


@pytest.mark.parametrize("copy", [False, True])
def test_extraction_computes_what_the_kept_indices_compute(kind_and_supernet, copy):
    kind, supernet = kind_and_supernet
    inputs = make_inputs(kind)
    full = _logits(supernet.model, inputs)
    torch.testing.assert_close(full, Slow(supernet, supernet.full)(inputs).float(), **CLOSE)
    for config in some_configs(supernet, 8):
        logits = _logits(supernet.extract(config, copy=copy), inputs)
        torch.testing.assert_close(logits, Slow(supernet, config)(inputs).float(), **CLOSE)
        if config != supernet.full:
            assert (logits - full).abs().max() > 0.01
    assert torch.equal(_logits(supernet.model, inputs), full)


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_the_two_ways_to_slice_heads_differ(kind):
    inputs = make_inputs(kind)
    config = make_supernet(kind).space.smallest()
    one, other = (_logits(make_supernet(kind, slicing).extract(config), inputs) for slicing in SLICINGS)
    assert (one - other).abs().max() > 0.01


def test_eager_attention_computes_the_same(kind_and_supernet):
    kind, supernet = kind_and_supernet
    config, inputs = supernet.space.smallest(), make_inputs(kind)
    fused = _logits(supernet.extract(config), inputs)
    supernet.model.config._attn_implementation = "eager"
    torch.testing.assert_close(_logits(supernet.extract(config), inputs), fused, **CLOSE)


# --- what an extracted model is


def _storages(model) -> set[int]:
    return {p.untyped_storage().data_ptr() for p in model.parameters()}


def test_shared_and_frozen_by_default(kind_and_supernet):
    _, supernet = kind_and_supernet
    model = supernet.extract(supernet.space.smallest())
    assert isinstance(model, transformers.PreTrainedModel)
    assert type(model) is type(supernet.model)
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    shared = _storages(supernet.model)
    views = [name for name, p in model.named_parameters() if p.untyped_storage().data_ptr() in shared]
    if supernet.slicing_heads is None:
        assert len(views) == len(list(model.parameters()))
    else:  # slices inside every head are no views: these, and only these, are copies
        copied = {name for name, _ in model.named_parameters()} - set(views)
        assert copied
        assert all("attention" in name for name in copied)
    *_, last = supernet.model.parameters()
    with torch.no_grad():
        last[2] = 123.0
    *_, seen = model.parameters()
    assert seen[2] == 123.0
    with pytest.raises(RuntimeError):
        _loss(supernet, model).backward()


def _loss(supernet, model):
    kind = supernet.family.model_type
    return model(**make_inputs(kind), labels=torch.tensor([0, 1, 2])).loss


def test_training_a_copy_leaves_the_supernet_alone(kind_and_supernet):
    _, supernet = kind_and_supernet
    before = {name: tensor.clone() for name, tensor in supernet.model.state_dict().items()}
    for config in (supernet.space.smallest(), supernet.full):
        model = supernet.extract(config, copy=True)
        assert all(p.requires_grad and p.is_contiguous() for p in model.parameters())
        assert not _storages(model) & _storages(supernet.model)
        start = [p.detach().clone() for p in model.parameters()]
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            _loss(supernet, model).backward()
            optimizer.step()
        assert all(not torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
    after = supernet.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not supernet.model.training
    assert not any(p.requires_grad or p.grad is not None for p in supernet.model.parameters())


SHAPES = {
    "vit": {
        "vit.embeddings.cls_token": (1, 1, 25),
        "vit.embeddings.position_embeddings": (1, 5, 25),
        "vit.embeddings.patch_embeddings.projection.weight": (25, 3, 8, 8),
        "vit.layers.1.attention.q_proj.weight": (24, 25),
        "vit.layers.2.attention.v_proj.bias": (12,),
        "vit.layers.0.attention.o_proj.weight": (25, 20),
        "vit.layers.0.mlp.fc1.weight": (7, 25),
        "vit.layers.1.mlp.fc2.weight": (25, 32),
        "vit.layernorm.weight": (25,),
        "classifier.weight": (5, 25),
    },
    "bert": {
        "bert.embeddings.word_embeddings.weight": (60, 25),
        "bert.encoder.layer.1.attention.self.query.weight": (24, 25),
        "bert.encoder.layer.0.attention.output.dense.weight": (25, 20),
        "bert.encoder.layer.0.intermediate.dense.bias": (7,),
        "bert.encoder.layer.1.output.dense.weight": (25, 32),
        "bert.pooler.dense.weight": (25, 25),
        "classifier.bias": (5,),
    },
    "roberta": {
        "roberta.embeddings.position_embeddings.weight": (24, 25),
        "roberta.encoder.layer.1.attention.self.key.weight": (24, 25),
        "roberta.encoder.layer.0.output.dense.weight": (25, 7),
        "classifier.dense.weight": (25, 25),
        "classifier.out_proj.weight": (5, 25),
    },
    "distilbert": {
        "distilbert.embeddings.position_embeddings.weight": (24, 25),
        "distilbert.transformer.layer.1.attention.q_lin.weight": (24, 25),
        "distilbert.transformer.layer.0.attention.out_lin.weight": (25, 20),
        "distilbert.transformer.layer.0.ffn.lin1.bias": (7,),
        "distilbert.transformer.layer.2.sa_layer_norm.weight": (25,),
        "pre_classifier.weight": (25, 25),
        "classifier.weight": (5, 25),
    },
}


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_state_dict_has_the_narrowed_shapes(kind, copy):
    supernet = make_supernet(kind)
    model = supernet.extract(SubmodelConfig(25, (20, 24, 12), (7, 32, 64)), copy=copy)
    state = model.state_dict()
    assert list(state) == list(supernet.model.state_dict())
    assert {name: tuple(state[name].shape) for name in SHAPES[kind]} == SHAPES[kind]
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            assert (module.out_features, module.in_features) == module.weight.shape
        elif isinstance(module, torch.nn.LayerNorm):
            assert module.normalized_shape == module.weight.shape == (25,)
        elif isinstance(module, torch.nn.Embedding):
            assert (module.num_embeddings, module.embedding_dim) == module.weight.shape
    assert model.config.hidden_size == 25


@pytest.mark.parametrize("copy", [False, True])
def test_save_pretrained_writes_the_narrowed_weights(kind_and_supernet, tmp_path, copy):
    _, supernet = kind_and_supernet
    model = supernet.extract(supernet.space.smallest(), copy=copy)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    state = model.state_dict()
    assert len(stored) == len(state)
    assert sum(t.double().abs().sum() for t in stored.values()) == pytest.approx(
        float(sum(t.double().abs().sum() for t in state.values()))
    )
    names = [name for name in state if name.startswith("classifier")]  # the same in memory and on disk
    assert all(torch.equal(stored[name], state[name]) for name in names)
    assert transformers.AutoConfig.from_pretrained(tmp_path).submodel["attention"] == [20, 24, 12]


def test_a_uniform_submodel_reloads_with_the_library_alone(kind_and_supernet, tmp_path):
    kind, supernet = kind_and_supernet
    config = SubmodelConfig(36, (36,) * 3, (40,) * 3)
    model = supernet.extract(config)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(_logits(again, make_inputs(kind)), _logits(model, make_inputs(kind)), **CLOSE)


def test_works_in_the_trainer(tmp_path):
    supernet = make_supernet("vit")
    before = supernet.fingerprint()
    model = supernet.extract(supernet.space.smallest(), copy=True)
    start = model.classifier.weight.detach().clone()
    pixels = make_inputs("vit", batch=4)["pixel_values"]
    rows = [{"pixel_values": pixels[i], "labels": i} for i in range(4)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no", learning_rate=0.01,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    assert trainer.train().global_step == 1
    assert not torch.equal(model.classifier.weight, start)
    assert trainer.evaluate()["eval_loss"] > 0
    assert supernet.fingerprint() == before


def test_works_in_a_pipeline():
    supernet = make_supernet("vit")
    model = supernet.extract(supernet.space.smallest())
    model.config.id2label = dict(enumerate("abcde"))
    processor = transformers.ViTImageProcessorPil(size={"height": 16, "width": 16})
    classify = transformers.pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    image = Image.linear_gradient("L").convert("RGB")
    answers = classify(image, top_k=5)
    shares = _logits(model, dict(processor(image, return_tensors="pt"))).softmax(-1)[0]
    assert {a["label"]: pytest.approx(a["score"], abs=1e-5) for a in answers} == dict(
        zip("abcde", shares.tolist(), strict=True)
    )


def test_extractions_leave_no_memory_behind():
    import psutil

    process = psutil.Process(os.getpid())
    supernet = make_supernet("vit", hidden_size=384, intermediate_size=1536, num_hidden_layers=6, space={})
    weights = sum(p.numel() * p.element_size() for p in supernet.model.parameters())
    config = SubmodelConfig(264, (192,) * 6, (768,) * 6)
    for _ in range(30):
        last = weakref.ref(supernet.extract(config))
    gc.collect()
    assert last() is None
    before = process.memory_info().rss
    for _ in range(300):
        supernet.extract(config)
    assert process.memory_info().rss - before < 0.05 * weights


# --- independence


def test_hooks_and_configuration_are_the_submodels_own(kind_and_supernet):
    kind, supernet = kind_and_supernet
    inputs, config = make_inputs(kind), supernet.space.smallest()
    original = supernet.model.config.to_dict()
    clean = _logits(supernet.model, inputs)
    expected = _logits(supernet.extract(config), inputs)
    model = supernet.extract(config)
    model.config.hidden_size, model.config.new = 1, "x"
    model.config.id2label[0] = "changed"
    model.config.label2id["changed"] = 0
    calls: list[str] = []
    for module in model.modules():
        module.register_forward_hook(lambda *_: calls.append("hook"))
    model.classifier.register_forward_hook(lambda *args: args[2] * 0)
    model.train()
    assert supernet.model.config.to_dict() == original
    assert torch.equal(_logits(supernet.model, inputs), clean)
    assert torch.equal(_logits(supernet.extract(config), inputs), expected)
    assert not calls
    assert not supernet.model.training


def test_hooks_of_the_supernet_do_not_follow():
    supernet = make_supernet("vit")
    calls: list[int] = []
    supernet.model.classifier.register_forward_hook(lambda *_: calls.append(1))
    _logits(supernet.extract(supernet.full), make_inputs("vit"))
    assert not calls
    _logits(supernet.model, make_inputs("vit"))
    assert calls


def test_submodels_do_not_disturb_each_other():
    supernet = make_supernet("bert")
    inputs = make_inputs("bert")
    configs = some_configs(supernet, 5)
    alone = [_logits(supernet.extract(config), inputs) for config in configs]
    together = [supernet.extract(config) for config in configs]
    assert all(torch.equal(_logits(model, inputs), a) for model, a in zip(together, alone, strict=True))


FULL = SubmodelConfig(48, (48,) * 3, (64,) * 3)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (SubmodelConfig(49, FULL.attention, FULL.ffn), "hidden width 49"),
        (SubmodelConfig(0, FULL.attention, FULL.ffn), "hidden width 0"),
        (SubmodelConfig(-8, FULL.attention, FULL.ffn), "hidden width -8"),
        (
            SubmodelConfig(48, (48, 22, 48), FULL.ffn),
            "attention width 22 of layer 2: give a multiple of 4 up to 48, where 0 leaves the block out",
        ),
        (SubmodelConfig(48, (48, 52, 48), FULL.ffn), "attention width 52"),
        (SubmodelConfig(48, FULL.attention, (64, 64, 65)), "ffn width 65"),
        (SubmodelConfig(48, (48,) * 2, (64,) * 2), "2 layers"),
        (SubmodelConfig(48, (48,) * 4, (64,) * 4), "4 layers"),
    ],
)
@pytest.mark.parametrize("act", ["extract", "cost"])
def test_impossible_configurations(config, named, act):
    with pytest.raises(ElasticSpaceError, match=named):
        getattr(make_supernet("vit"), act)(config)


def test_unequal_numbers_of_widths():
    with pytest.raises(ElasticSpaceError, match="one of each per layer"):
        SubmodelConfig(48, (48,) * 3, (64,) * 2)
    with pytest.raises(ElasticSpaceError):
        SubmodelConfig(48, (), ())


def test_widths_between_the_choices_can_be_extracted(kind_and_supernet):
    """Clients of a federation may have any width, not only those offered."""
    kind, supernet = kind_and_supernet
    config = SubmodelConfig(31, (40, 8, 16), (1, 50, 13))
    assert config not in supernet.space
    inputs = make_inputs(kind)
    torch.testing.assert_close(
        _logits(supernet.extract(config), inputs), Slow(supernet, config)(inputs).float(), **CLOSE
    )


OTHER_SPACES = {
    "not elastic": {},
    "hidden only": {"residual_hidden_space": [48, 24, 1]},
    "published": {"atten_out_space": [48, 24, 12], "inter_hidden_space": [64, 32], "residual_hidden_space": "None"},
    "narrow": {"atten_out_space": [48, 4], "inter_hidden_space": [64, 1], "residual_hidden_space": [48, 3]},
}


@pytest.mark.parametrize("name", OTHER_SPACES)
@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_other_elastic_spaces(kind, name):
    supernet, inputs = make_supernet(kind, space=OTHER_SPACES[name]), make_inputs(kind)
    for config in some_configs(supernet, 4):
        model = supernet.extract(config)
        torch.testing.assert_close(_logits(model, inputs), Slow(supernet, config)(inputs).float(), **CLOSE)
        assert supernet.cost(config).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", TEXT_FAMILIES)
def test_padding_has_no_influence(kind):
    supernet, inputs = make_supernet(kind), make_inputs(kind, batch=4)
    assert not bool(inputs["attention_mask"].all())
    for config in some_configs(supernet, 4):
        model = supernet.extract(config)
        together = _logits(model, inputs)
        for row, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
            alone = {name: tensor[row : row + 1, :length] for name, tensor in inputs.items()}
            torch.testing.assert_close(_logits(model, alone)[0], together[row], **CLOSE)


# --- a submodel as a supernet of its own


def _some_within(space, config, count, rng):
    """Random submodels that lie within `config`."""
    widths = [
        [rng.choice([w for w in c if w <= most]) for c, most in zip(choices, widest, strict=True)]
        for _ in range(count)
        for choices, widest in ((space.attention, config.attention), (space.ffn, config.ffn))
    ]
    hidden = [rng.choice([w for w in space.hidden if w <= config.hidden]) for _ in range(count)]
    return [
        SubmodelConfig(int(h), tuple(map(int, widths[2 * i])), tuple(map(int, widths[2 * i + 1])))
        for i, h in enumerate(hidden)
    ]


def test_a_submodel_can_be_scaled_like_the_supernet_it_came_from(kind_and_supernet):
    kind, supernet = kind_and_supernet
    inputs, rng = make_inputs(kind), np.random.default_rng(5)
    for outer in some_configs(supernet, 6):
        narrowed = supernet.narrowed(outer)
        assert narrowed.full == narrowed.space.largest() == outer
        for config in [outer, *_some_within(supernet.space, outer, 3, rng)]:
            assert config in narrowed.space
            model = narrowed.extract(config)
            torch.testing.assert_close(_logits(model, inputs), _logits(supernet.extract(config), inputs), **CLOSE)
            assert narrowed.cost(config, 9) == supernet.cost(config, 9)
            assert narrowed.space.cost_of(config, "parameters") == sum(p.numel() for p in model.parameters())
    assert narrowed.space.count(Budget(max_parameters=supernet.cost(outer).parameters)) == narrowed.space.count()


def test_a_narrowed_supernet_trains_and_leaves_the_supernet_alone(kind_and_supernet):
    _, supernet = kind_and_supernet
    supernet.tokens, before = 9, supernet.fingerprint()
    outer = some_configs(supernet, 3)[-1]
    narrowed = supernet.narrowed(outer)
    assert narrowed.tokens == supernet.tokens
    assert not _storages(narrowed.model) & _storages(supernet.model)
    optimizer = torch.optim.SGD(narrowed.model.train().parameters(), lr=0.1)
    _loss(narrowed, narrowed.model).backward()
    optimizer.step()
    student = narrowed.extract(narrowed.space.smallest())
    assert not any(p.requires_grad for p in student.parameters())
    *_, bias = narrowed.model.parameters()
    *_, seen = student.parameters()
    assert torch.equal(bias, seen), "a student holds what has been trained"
    there = [p for p in supernet.parameters if p.present(outer.widths(p.layer))]
    trained = list(narrowed.model.parameters())
    assert [p.narrowed_shape(outer.widths(p.layer)) for p in there] == [tuple(p.shape) for p in trained]
    assert supernet.fingerprint() == before


def test_a_space_that_is_wider_than_a_layer_of_the_network():
    supernet = make_supernet("vit")
    model = supernet.extract(SubmodelConfig(36, (48, 24, 12), (64, 32, 40)))
    with pytest.raises(ElasticSpaceError, match=r"inter_hidden_space holds 40, above the full width 32 of layer 2"):
        Supernet(model, supernet.family, ElasticSpec.from_json({"inter_hidden_space": [40, 8]}, "file"))
    again = Supernet(model, supernet.family, ElasticSpec.from_json({}, "file"))
    assert again.space.largest() == again.full == SubmodelConfig(36, (48, 24, 12), (64, 32, 40))
    with pytest.raises(ElasticSpaceError, match=r"attention width 48 of layer 2: give a multiple of 4 up to 24"):
        again.extract(SubmodelConfig(36, (48, 48, 12), (64, 32, 40)))


def test_a_supernet_that_was_never_on_disk():
    supernet = make_supernet("vit")
    assert supernet.name == "vit"
    with pytest.raises(CheckpointError, match="no processor"):
        _ = supernet.processor


def test_fingerprint_tells_weights_and_slicing_apart():
    one = make_supernet("vit")
    others = make_supernet("vit", "contiguous"), make_supernet("vit", seed=1)
    prints = [supernet.fingerprint() for supernet in (one, *others)]
    assert len(set(prints)) == 3
    assert one.fingerprint() == prints[0] == make_supernet("vit").fingerprint()
    with torch.no_grad():
        one.model.classifier.bias[0] += 1e-6
    assert one.fingerprint() != prints[0]


def test_widths_of_numpy_are_extracted_and_offered_like_others(kind_and_supernet):
    kind, supernet = kind_and_supernet
    plain = supernet.space.smallest()
    typed = SubmodelConfig(np.int64(plain.hidden), np.array(plain.attention), list(plain.ffn))
    assert typed in supernet.space
    model = supernet.extract(typed)
    assert model.config.to_dict() == supernet.extract(plain).config.to_dict()
    assert torch.equal(_logits(model, make_inputs(kind)), _logits(supernet.extract(plain), make_inputs(kind)))
    offered = ElasticSpec.from_json({"inter_hidden_space": (np.int32(64), np.int16(7))}, "test")
    assert offered.ffn == (64, 7)
    assert {type(width) for width in offered.ffn} == {int}
    assert ElasticSpec.from_json(supernet.spec.to_json(), "test") == ElasticSpec(
        "test", **{key: value for key, value in vars(supernet.spec).items() if key != "source"}
    )


SETTINGS = {
    "heads": dict(num_attention_heads=2),
    "activation": dict(hidden_act="relu"),
    "epsilon": dict(layer_norm_eps=0.5),
    "padding": dict(pad_token_id=3),
}
# what a configuration calls them in the family whose names are its own; its epsilon is fixed
OWN_NAMES = {"distilbert": dict(num_attention_heads="n_heads", hidden_act="activation")}


def _with_settings(folder, kind, changes):
    """The checkpoint of this folder after a change to its config.json alone."""
    names = OWN_NAMES.get(kind, {})
    path = folder / "config.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {names.get(key, key): value for key, value in changes.items()}))
    try:
        return Supernet.from_pretrained(folder)
    finally:
        path.write_text(before)


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_a_fingerprint_changes_with_every_setting_that_changes_answers(kind, tmp_path):
    supernet, inputs = make_supernet(kind), make_inputs(kind)
    checkpoints.save(tmp_path, supernet.model, supernet.spec, None, torch.float32)
    prints, answers = [supernet.fingerprint()], _logits(supernet.model, inputs)
    assert Supernet.from_pretrained(tmp_path).fingerprint() == prints[0], "a folder that was written says the same"
    for name, changes in SETTINGS.items():
        other = _with_settings(tmp_path, kind, changes)
        if (_logits(other.model, inputs) - answers).abs().max() > 1e-4:
            prints.append(other.fingerprint())
            assert _with_settings(tmp_path, kind, changes).fingerprint() == prints[-1], name
    assert len(set(prints)) == len(prints) >= (3 if kind == "distilbert" else 4)


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_a_fingerprint_does_not_change_with_what_changes_no_answers(kind, tmp_path):
    supernet = make_supernet(kind)
    checkpoints.save(tmp_path, supernet.model, supernet.spec, None, torch.float32)
    usual = type(supernet.model.config)().to_dict()
    content = json.loads((tmp_path / "config.json").read_text())
    shorter = {key: value for key, value in content.items() if key == "model_type" or usual.get(key) != value}
    for changes in (
        dict(id2label={str(i): f"class {i}" for i in range(5)}, label2id={f"class {i}": i for i in range(5)}),
        dict(hidden_dropout_prob=0.3, dropout=0.3, transformers_version="9.0", dtype="bfloat16"),
        dict(something="that only its author knows"),
    ):
        assert _with_settings(tmp_path, kind, changes).fingerprint() == supernet.fingerprint()
    (tmp_path / "config.json").write_text(json.dumps(shorter))
    assert len(shorter) < len(content)
    assert Supernet.from_pretrained(tmp_path).fingerprint() == supernet.fingerprint()
    supernet.model.set_attn_implementation("eager")
    assert Supernet.from_pretrained(tmp_path).fingerprint() == supernet.fingerprint()
