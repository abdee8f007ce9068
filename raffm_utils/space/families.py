"""The axis tables: which dimension of which parameter lies on which elastic axis.

Everything else in this package is generic code over these tables. Adding a family means adding one
table and registering it in `FAMILIES`.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError, shown
from .axes import Axis, Family, Live, Role, Row, Use

H, F = Axis.HIDDEN, Axis.FFN


def _linear(
    name: str, out_axis: Axis | None, in_axis: Axis | None, use: Use = Use.TOKEN, role: Role | None = None
) -> tuple[Row, ...]:
    block = next((axis for axis in (out_axis, in_axis) if axis in (Axis.ATTENTION, F)), None)
    bias = Row(f"{name}.bias", (out_axis,), role=role, block=block)
    return Row(f"{name}.weight", (out_axis, in_axis), use, role, block=block), bias


def _attention(prefix: str, query: str, key: str, value: str, output: str) -> tuple[Row, ...]:
    return (
        *_linear(f"{prefix}.{query}", Axis.ATTENTION, H, role=Role.QUERY_KEY),
        *_linear(f"{prefix}.{key}", Axis.ATTENTION, H, role=Role.QUERY_KEY),
        *_linear(f"{prefix}.{value}", Axis.ATTENTION, H, role=Role.VALUE_OUTPUT),
        *_linear(f"{prefix}.{output}", H, Axis.ATTENTION, role=Role.VALUE_OUTPUT),
    )


def _norm(name: str, before: Axis | None = None) -> tuple[Row, ...]:
    """A norm; one that stands `before` a block is there for that block alone."""
    return Row(f"{name}.weight", (H,), block=before), Row(f"{name}.bias", (H,), block=before)


def _bert_encoder(prefix: str) -> tuple[Row, ...]:
    """The rows of everything but the classifier; RoBERTa's encoder has the same parts under another prefix."""
    embeddings, layer = f"{prefix}.embeddings", f"{prefix}.encoder.layer.{{layer}}"
    return (
        Row(f"{embeddings}.word_embeddings.weight", (None, H), table=True),
        Row(f"{embeddings}.position_embeddings.weight", (None, H), table=True),
        Row(f"{embeddings}.token_type_embeddings.weight", (None, H), table=True),
        *_norm(f"{embeddings}.LayerNorm"),
        *_attention(f"{layer}.attention", "self.query", "self.key", "self.value", "output.dense"),
        *_norm(f"{layer}.attention.output.LayerNorm"),
        *_linear(f"{layer}.intermediate.dense", F, H),
        *_linear(f"{layer}.output.dense", H, F),
        *_norm(f"{layer}.output.LayerNorm"),
    )


# the attention product; the norm behind attention; the activation; the norm behind the FFN, with and without it
_BERT_LIVE = (Live(1, attention=4), Live(4, attention=1), Live(2, ffn=2), Live(5, ffn=1), Live(4))
_VIT_LAYER = "vit.layers.{layer}"
VIT = Family(
    model_type="vit",
    label="ViT",
    auto_class="AutoModelForImageClassification",
    rows=(
        Row("vit.embeddings.cls_token", (None, None, H), table=True),
        Row("vit.embeddings.position_embeddings", (None, None, H), table=True),
        Row("vit.embeddings.patch_embeddings.projection.weight", (H, None, None, None), Use.PATCH),
        Row("vit.embeddings.patch_embeddings.projection.bias", (H,)),
        *_norm(f"{_VIT_LAYER}.layernorm_before", before=Axis.ATTENTION),
        *_attention(f"{_VIT_LAYER}.attention", "q_proj", "k_proj", "v_proj", "o_proj"),
        *_norm(f"{_VIT_LAYER}.layernorm_after", before=F),
        *_linear(f"{_VIT_LAYER}.mlp.fc1", F, H),
        *_linear(f"{_VIT_LAYER}.mlp.fc2", H, F),
        *_norm("vit.layernorm"),
        *_linear("classifier", None, H, Use.EXAMPLE),
    ),
    attention_module=f"{_VIT_LAYER}.attention",
    head_size_name="head_dim",
    # the attention output projection; the activation; the second FFN product; the last norm
    live=(Live(3, attention=4), Live(3, ffn=2), Live(4, ffn=1), Live(2, once=True)),
    norm_readers=(
        (
            f"{_VIT_LAYER}.layernorm_before",
            tuple(f"{_VIT_LAYER}.attention.{name}" for name in ("q_proj", "k_proj", "v_proj")),
        ),
        (f"{_VIT_LAYER}.layernorm_after", (f"{_VIT_LAYER}.mlp.fc1",)),
        ("vit.layernorm", ("classifier",)),
    ),
)
BERT = Family(
    model_type="bert",
    label="BERT",
    auto_class="AutoModelForSequenceClassification",
    rows=(
        *_bert_encoder("bert"),
        *_linear("bert.pooler.dense", H, H, Use.EXAMPLE),
        *_linear("classifier", None, H, Use.EXAMPLE),
    ),
    attention_module="bert.encoder.layer.{layer}.attention.self",
    head_size_name="attention_head_size",
    live=(*_BERT_LIVE, Live(5, once=True, ids=1)),  # words, types and positions added up; ids of types
)
ROBERTA = Family(
    model_type="roberta",
    label="RoBERTa",
    auto_class="AutoModelForSequenceClassification",
    rows=(
        *_bert_encoder("roberta"),
        *_linear("classifier.dense", H, H, Use.EXAMPLE),
        *_linear("classifier.out_proj", None, H, Use.EXAMPLE),
    ),
    attention_module="roberta.encoder.layer.{layer}.attention.self",
    head_size_name="attention_head_size",
    live=(*_BERT_LIVE, Live(5, once=True, ids=2)),  # positions are numbered anew for every text
    counts_positions_from_padding=True,
)
_DISTILBERT_LAYER = "distilbert.transformer.layer.{layer}"
DISTILBERT = Family(
    model_type="distilbert",
    label="DistilBERT",
    auto_class="AutoModelForSequenceClassification",
    rows=(
        Row("distilbert.embeddings.word_embeddings.weight", (None, H), table=True),
        Row("distilbert.embeddings.position_embeddings.weight", (None, H), table=True),
        *_norm("distilbert.embeddings.LayerNorm"),
        *_attention(f"{_DISTILBERT_LAYER}.attention", "q_lin", "k_lin", "v_lin", "out_lin"),
        *_norm(f"{_DISTILBERT_LAYER}.sa_layer_norm"),
        *_linear(f"{_DISTILBERT_LAYER}.ffn.lin1", F, H),
        *_linear(f"{_DISTILBERT_LAYER}.ffn.lin2", H, F),
        *_norm(f"{_DISTILBERT_LAYER}.output_layer_norm"),
        *_linear("pre_classifier", H, H, Use.EXAMPLE),
        *_linear("classifier", None, H, Use.EXAMPLE),
    ),
    attention_module=f"{_DISTILBERT_LAYER}.attention",
    head_size_name="attention_head_size",
    # the attention output projection; the activation; the second FFN product; the norm behind the FFN, with and
    # without it; words and positions added up
    live=(Live(2, attention=4), Live(2, ffn=2), Live(3, ffn=1), Live(5, block=F), Live(4), Live(3, once=True)),
    hidden_key="dim",
    ffn_key="hidden_dim",
    heads_key="n_heads",
    layers_key="n_layers",
)
FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (VIT, BERT, ROBERTA, DISTILBERT)}


def family_of(model_type: Any, where: str = "") -> Family:
    """The axis table of a model type; raises `CheckpointError`, naming the file `where`, if there is none."""
    if (family := FAMILIES.get(str(model_type))) is None:
        raise CheckpointError(
            f"{where and f'{where}: '}model_type={shown(model_type)}: known are {', '.join(FAMILIES)}; "
            "add an axis table to raffm_utils/space/families.py for another"
        )
    return family
