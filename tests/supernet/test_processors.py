"""Image processors and tokenizers of folders: those of another network, and those that would never end, are refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import make_supernet, write_text_checkpoint
from helpers.bounded import refusal
from helpers.federated import make_processor

from raffm_utils.data import token_ids
from raffm_utils.errors import CheckpointError
from raffm_utils.supernet import Supernet, checkpoints


@pytest.fixture
def images(tmp_path: Path) -> Path:
    supernet = make_supernet("vit")
    checkpoints.save(tmp_path / "net", supernet.model, supernet.spec, make_processor(), torch.float32)
    return tmp_path / "net"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = write_text_checkpoint(tmp_path / "net", "bert")
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": square(32)}, "makes pictures of 32 x 32 pixels, but the network takes 16 x 16: set 'size' to that"),
        ({"size": {"shortest_edge": 16}, "image_processor_type": "CLIPImageProcessor"}, "preprocessor_config.json"),
        ({"size": square(20_000)}, "size.height of 20000, above the limit of 256"),
        ({"size": square(10**9)}, "size.height of 1e+09, above the limit of 256"),
        ({"do_center_crop": True, "crop_size": square(10**9)}, "crop_size.height of 1e+09"),
        ({"size_divisor": 10**9}, "size_divisor of 1e+09"),
        ({"image_mean": [0.5, 0.5]}, "makes nothing of a picture"),
        ({"image_std": "x"}, "makes nothing of a picture"),
        ({"image_std": [0.0, 0.5, 0.5]}, "NaN or infinite: correct image_std"),
        ({"rescale_factor": 1e300}, "rescale_factor of 1e+300"),
        ({"rescale_factor": float("nan")}, "rescale_factor of nan"),
        ({"resample": 77}, "makes nothing of a picture"),
        ({"size": "x"}, "preprocessor_config.json"),
        ({"image_processor_type": "NoSuchProcessor"}, "preprocessor_config.json"),
    ],
    ids=str,
)
def test_an_image_processor_of_another_network(images, changes, said):
    edit(images / "preprocessor_config.json", **changes)
    assert said in refusal(lambda: Supernet.from_pretrained(images).processor)


def test_image_processors_that_fit(images):
    for changes in (
        {},
        {"do_resize": False},
        {"do_normalize": False},
        {"image_mean": 0.5},
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 20},
            "crop_size": square(16),
            "do_center_crop": True,
        },
    ):
        edit(images / "preprocessor_config.json", **changes)
        assert isinstance(Supernet.from_pretrained(images).processor, transformers.BaseImageProcessor)


STEPS = {
    "a text repeated": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 40},
    "nothing replaced": {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "a" * 40},
    "a text put before": {"type": "Prepend", "prepend": "a" * 40},
}


@pytest.mark.parametrize("name", STEPS)
def test_a_tokenizer_that_makes_texts_longer(texts, name):
    good = (texts / "tokenizer.json").read_text()
    assert len(Supernet.from_pretrained(texts).processor)
    edit(texts / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [STEPS[name]] * 5})
    assert "e+08 times as long, above the limit of 256" in refusal(lambda: Supernet.from_pretrained(texts).processor)
    (texts / "tokenizer.json").write_text(good)
    edit(texts / "tokenizer.json", normalizer=STEPS[name])
    assert len(Supernet.from_pretrained(texts).processor)


def test_steps_that_write_every_byte_anew(texts):
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    edit(texts / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [step] * 12})
    assert "times as long, above the limit" in refusal(lambda: Supernet.from_pretrained(texts).processor)


def test_an_expression_that_tries_all_ways_to_match(texts):
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    edit(texts / "tokenizer.json", pre_tokenizer=split)
    tokenizer = Supernet.from_pretrained(texts).processor

    def use() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the library reports its panic there
        token_ids(tokenizer, ["a good film", "a" * 40 + "!"])

    assert "the tokenizer gives up on one of 2 sentences" in refusal(use)


def test_more_special_tokens_than_positions(texts):
    content = json.loads((texts / "tokenizer.json").read_text())
    sign = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    content["post_processor"]["single"] = [*[sign] * 30, {"Sequence": {"id": "A", "type_id": 0}}]
    (texts / "tokenizer.json").write_text(json.dumps(content))
    said = "adds 30 special tokens to a text, and the network takes 24 in all"
    assert said in refusal(lambda: Supernet.from_pretrained(texts).processor)


@pytest.mark.parametrize("length", ["x", 0, -3, [5]])
def test_a_length_that_no_text_has(texts, length):
    edit(texts / "tokenizer_config.json", model_max_length=length)
    with pytest.raises(CheckpointError):
        _ = Supernet.from_pretrained(texts).processor


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_files_of_words_that_are_no_files(texts, file):
    (texts / file).unlink(missing_ok=True)
    os.mkfifo(texts / file)
    said = f"{texts / file} is a pipe, a socket or a device"
    assert refusal(lambda: Supernet.from_pretrained(texts).processor).startswith(said)


def test_other_errors_of_a_tokenizer_are_its_own():
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        token_ids(stop, ["a"])
