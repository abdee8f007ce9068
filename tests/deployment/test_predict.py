"""Real examples through exported files, in this environment and in one that has nothing of ours."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import transformers
from conftest import make_supernet
from helpers.export import SENTENCES, names, processor_for
from PIL import ExifTags, Image

from raffm_utils import Supernet, export_submodel, load_split
from raffm_utils.data import Pixels
from raffm_utils.deployment import GraphClassifier, settings_of
from raffm_utils.deployment.predict_image import prepare, read
from raffm_utils.errors import DataError, DeploymentError
from raffm_utils.supernet import bundled

EXAMPLES = 64


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> SimpleNamespace:
    """The smallest submodel of a bundled checkpoint, and real test images."""
    name = next((name for name in bundled() if name.startswith("vit-small-fashion")), None)
    if name is None:
        pytest.skip("no bundled image checkpoint")
    supernet = Supernet.from_pretrained(name)
    model, folder = supernet.extract(supernet.space.smallest()), tmp_path_factory.mktemp("exported") / "out"
    export_submodel(model, folder, ["safetensors", "pt2", "onnx"], processor=supernet.processor)
    dataset = supernet.spec.provenance["dataset"]
    data = load_split(dataset, "test", limit=EXAMPLES, processor=supernet.processor)
    return SimpleNamespace(supernet=supernet, model=model, folder=folder, data=data)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.onnx", "model.pt2"])
def test_real_images_give_the_same_logits(exported, file):
    inputs, _ = next(exported.data.batches(EXAMPLES))
    graph = GraphClassifier(exported.folder / file, exported.model.config, tuple(inputs))
    with torch.inference_mode():
        torch.testing.assert_close(graph(**inputs).logits, exported.model(**inputs).logits, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_real_images_give_the_same_pixels(exported):
    images = exported.data.raw[:EXAMPLES]["image"]
    made = prepare(images, settings_of(exported.supernet.processor))["pixel_values"]
    wanted = exported.supernet.processor([i.convert("RGB") for i in images], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-5)


def picture(kind: str) -> Image.Image:
    """One picture with a different value everywhere, in a mode that files come in."""
    values = np.random.default_rng(5).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    made = Image.fromarray(values)
    if kind == "transparent":
        made.putalpha(Image.fromarray(values[..., 0]))
    elif kind == "transparent palette":
        made = made.quantize(16)
        made.info["transparency"] = 3
    elif kind == "transparent colour":
        made.info["transparency"] = made.getpixel((0, 0))
    elif kind in ("I;16", "F"):
        made = Image.fromarray(
            values[..., 0].astype(np.uint16) * 257 if kind == "I;16" else values[..., 0] / np.float32(255)
        )
    else:
        made = made.convert(kind)
    assert made.mode == {"transparent": "RGBA", "transparent palette": "P", "transparent colour": "RGB"}.get(kind, kind)
    return made


def both_ways(path: Path, processor=None) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of a file in the data pipeline, which accuracies are measured with, and in predict.py."""
    size = {"height": 16, "width": 16}
    processor = processor or transformers.ViTImageProcessorPil(size=size, resample=2, do_convert_rgb=True)
    features = datasets.Features({"image": datasets.Image()})
    raw = datasets.Dataset.from_dict({"image": [{"bytes": path.read_bytes(), "path": None}]}, features=features)
    measured = Pixels.restore(Pixels.encode(raw, processor), 1, processor).batch(torch.arange(1))["pixel_values"]
    return measured.numpy(), prepare([read(str(path))], settings_of(processor))["pixel_values"]


@pytest.mark.parametrize(
    "kind",
    ["RGB", "L", "1", "P", "LA", "CMYK", "YCbCr", "transparent", "transparent palette", "transparent colour"],
)
@pytest.mark.parametrize("turn", [1, 3, 6, 7])
def test_pictures_of_every_kind_are_read_as_they_were_measured(kind, turn, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    stored, path = picture(kind), tmp_path / ("a.jpg" if kind in ("CMYK", "YCbCr") else "a.png")
    stored.save(path, exif=exif, **({"quality": 95} if path.suffix == ".jpg" else {}))
    measured, answered = both_ways(path)
    np.testing.assert_allclose(answered, measured, rtol=0, atol=1e-5)
    turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE}.get(turn)
    opened = Image.open(path)
    values, alpha = np.split(np.asarray(opened.convert("RGBA"), np.float32), [3], axis=2)
    upright = Image.fromarray(np.rint(values * alpha / 255 + 255 - alpha).astype(np.uint8))
    if kind in ("CMYK", "YCbCr"):
        upright = opened.convert("RGB")
    wanted = (upright if turned is None else upright.transpose(turned)).resize((16, 16), 2)
    rounding = 1.01 / 127.5 if "A" in opened.getbands() else 1e-5
    np.testing.assert_allclose(answered[0], np.asarray(wanted).transpose(2, 0, 1) / 127.5 - 1, rtol=0, atol=rounding)


@pytest.mark.parametrize("kind", ["I;16", "F"])
def test_pictures_of_more_than_8_bits_are_refused_alike(kind, tmp_path):
    path = tmp_path / "a.tif"
    picture(kind).save(path)
    with pytest.raises(DataError, match=f"its mode {kind} has no fixed white: scale it to 0 to 255"):
        both_ways(path)
    with pytest.raises(SystemExit, match=f"{path.name} cannot be read: its mode {kind} has no fixed white"):
        read(str(path))
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(SystemExit, match=r"a\.tif cannot be read"):
        read(str(path))


@pytest.mark.parametrize("mean", [0.4, np.float32(0.4), (0.4, 0.4, 0.4)])
def test_one_number_stands_for_all_channels(mean, tmp_path):
    size = {"height": 16, "width": 16}
    picture("RGB").save(tmp_path / "a.png")
    processors = [transformers.ViTImageProcessorPil(size=size, image_mean=m, image_std=0.2) for m in (mean, [0.4] * 3)]
    (measured, answered), (wanted, _) = (both_ways(tmp_path / "a.png", processor) for processor in processors)
    np.testing.assert_allclose(measured, wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(answered, wanted, rtol=0, atol=1e-5)
    for wrong in ([0.1, 0.2], [0.4], "0.4", None):
        processors[0].image_mean = wrong
        with pytest.raises(DataError, match=r"is no mean or deviation of pixels .*: give one number, or three"):
            settings_of(processors[0])


def test_processors_that_do_more_are_refused():
    cropping = transformers.ViTImageProcessorPil(size={"shortest_edge": 16})
    with pytest.raises(DeploymentError, match="fixed height and width"):
        settings_of(cropping)
    odd = transformers.ViTImageProcessorPil(size={"height": 16, "width": 16})
    odd.preprocess = lambda images, **_: {"pixel_values": np.zeros((len(images), 3, 16, 16), np.float32)}
    with pytest.raises(DeploymentError, match="more than resize"):
        settings_of(odd)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """A new environment with what `predict.py` asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--only-binary", ":all:"]
    command += ["onnxruntime", "numpy", "pillow", "tokenizers"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if ended.returncode:
        pytest.skip(f"pip cannot reach an index: {ended.stderr.strip()[-200:]}")
    return python


def predict(python: Path, folder: Path, *inputs: str) -> list[list[str]]:
    """The lines of predict.py, run where neither torch nor transformers nor this package can be found."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    for package in ("torch", "transformers", "raffm_utils"):
        assert subprocess.run([python, "-c", f"import {package}"], capture_output=True, env=environment).returncode
    command = [str(python), str(folder / "predict.py"), str(folder / "model.onnx"), *inputs]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 0, ended.stderr
    return [line.split("\t") for line in ended.stdout.splitlines()]


@pytest.mark.slow
def test_predict_classifies_images_in_a_bare_environment(exported, bare_python, tmp_path):
    paths = []
    for number, image in enumerate(exported.data.raw[:8]["image"]):
        paths.append(str(tmp_path / f"{number}.png"))
        image.save(paths[-1])
    images = [Image.open(path).convert("RGB") for path in paths]
    pixels = exported.supernet.processor(images, return_tensors="pt")["pixel_values"]
    check(predict(bare_python, exported.folder, *paths), paths, exported.model, {"pixel_values": pixels})


@pytest.mark.slow
def test_predict_classifies_sentences_in_a_bare_environment(bare_python, tmp_path):
    supernet = make_supernet("bert", **names())
    model, tokenizer = supernet.extract(supernet.space.smallest()), processor_for(supernet)
    export_submodel(model, tmp_path / "out", ["onnx"], processor=tokenizer)
    sentences = [*SENTENCES, "one far longer than the network has positions for " * 5]
    inputs = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    check(predict(bare_python, tmp_path / "out", *sentences), sentences, model, inputs)


def check(lines: list[list[str]], given: list[str], model, inputs) -> None:
    with torch.inference_mode():
        shares = model(**inputs).logits.softmax(1)
    assert [line[0] for line in lines] == given
    assert [line[1] for line in lines] == [model.config.id2label[int(i)] for i in shares.argmax(1)]
    np.testing.assert_allclose([float(line[2]) for line in lines], shares.amax(1).numpy(), atol=2e-4)
