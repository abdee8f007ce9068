"""Standalone submodels: one folder with the formats asked for, each read back and compared before it counts."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from ..errors import DeploymentError
from ..evaluation import evaluate
from ..files import staged
from ..space import family_of
from .graphs import (
    GraphClassifier,
    check_calibration,
    example_inputs,
    halve_onnx,
    quantize_dynamic,
    quantize_static,
    require,
    trace,
    write_onnx,
    write_pt2,
)
from .preprocessing import settings_of, write_predict
from .submodel_folder import SUBMODEL_FILE, WEIGHTS_FILE, load_submodel, widths_of, write_weights

if TYPE_CHECKING:
    from ..data import Split


# format -> (file, bytes for each parameter)
FORMATS = {
    "safetensors": (WEIGHTS_FILE, 4),
    "safetensors-float16": (WEIGHTS_FILE, 2),
    "pt2": ("model.pt2", 4),
    "onnx": ("model.onnx", 4),
    "onnx-float16": ("model-float16.onnx", 2),
    "onnx-int8-dynamic": ("model-int8-dynamic.onnx", 1),
    "onnx-int8-static": ("model-int8-static.onnx", 1),
}
FLOAT32 = ("safetensors", "pt2", "onnx")
TOLERANCE = 1e-4  # of float32 logits, or of the largest of them where that is above 1
COMPARED_EXAMPLES = 64
OVERHEAD_BYTES = 4 * 2**20  # graph, processor, tokenizer


def export_submodel(
    model: PreTrainedModel,
    folder: str | Path,
    formats: Iterable[str] = ("safetensors", "onnx"),
    *,
    processor: Any = None,
    data: "Split | None" = None,
    calibration: "Split | None" = None,
    about: Mapping[str, Any] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write what `Supernet.extract` returned as a folder that needs no supernet; returns its `submodel.json`.

    `formats` are keys of `FORMATS`. Each file is read back and its logits are compared with those of `model`, on
    `data` where it is given, whose accuracy is then measured too. `calibration` examples are for static int8;
    `about` are facts for the model card; `on_step(what)` is called before every file written or read back.
    Raises `DeploymentError`; the folder then does not exist.
    """
    folder, formats = Path(folder), check_formats(formats)
    facts = _facts(model, formats, processor, calibration)
    parameters = sum(p.numel() for p in model.parameters())
    needed = sum(FORMATS[name][1] * parameters for name in formats) + 4 * parameters + OVERHEAD_BYTES
    on_step = on_step or (lambda what: None)
    with staged(folder, needed) as part:
        writer = _Writer(model, part, processor, calibration, facts)
        for name in formats:
            on_step(f"write {name}")
            writer.write(name)
        for left in part.glob(f"{writer.source.name}*"):
            left.unlink()
        content: dict[str, Any] = {
            **dict(about or {}),
            "model_type": model.config.model_type,
            "auto_class": family_of(model).auto_class,
            "stock": writer.stock,
            **vars(widths_of(model)),
            "parameters": parameters,
            "labels": labels_of(model),
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "formats": {},
        }
        _write_json(part / SUBMODEL_FILE, content)
        reference = _Reference(model, data)
        for name in formats:
            on_step(f"check {name}")
            content["formats"][name] = reference.check(name, part)
        _write_json(part / SUBMODEL_FILE, content)
        (part / "README.md").write_text(model_card(folder.name, content), encoding="utf-8")
    return content


def check_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """The formats, each once, in the order of `FORMATS`; raises `DeploymentError` for what cannot be had."""
    asked = set([formats] if isinstance(formats, str) else formats)
    if not asked or (unknown := asked - set(FORMATS)):
        named = ", ".join(sorted(unknown)) if asked else "none"
        raise DeploymentError(f"formats: {named}: known are {', '.join(FORMATS)}")
    if {"safetensors", "safetensors-float16"} <= asked:
        raise DeploymentError(f"safetensors and safetensors-float16 are both {WEIGHTS_FILE}: ask for one of them")
    if any(name.startswith("onnx") for name in asked):
        require("onnx", "onnxscript", "onnxruntime")
    return tuple(name for name in FORMATS if name in asked)


def labels_of(model: PreTrainedModel) -> list[str]:
    """The names of the classes, in order."""
    names: dict[Any, str] = dict(model.config.id2label or {})
    return [names[i] for i in sorted(names)]


def _facts(
    model: PreTrainedModel, formats: tuple[str, ...], processor: Any, calibration: "Split | None"
) -> dict[str, str]:
    """The metadata of graph files, all of it JSON; raises for whatever the formats lack, before any work."""
    facts = {"labels": json.dumps(labels_of(model)), "submodel": json.dumps(vars(widths_of(model)))}
    if any(name.startswith("onnx") for name in formats):
        facts |= {} if processor is None else {"preprocessing": json.dumps(settings_of(processor))}
    if "onnx-int8-static" in formats:
        check_calibration(calibration)
    return facts


class _Writer:
    """Writes one file after the other; what several of them need is made once."""

    def __init__(
        self,
        model: PreTrainedModel,
        folder: Path,
        processor: Any,
        calibration: "Split | None",
        facts: Mapping[str, str],
    ) -> None:
        self.model, self.folder, self.processor, self.calibration = model, folder, processor, calibration
        self.inputs, self.facts = tuple(example_inputs(model)), facts
        self.stock = False
        self.source = folder / "source.onnx.tmp"
        if processor is not None:
            processor.save_pretrained(folder)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        return trace(self.model)

    def write(self, name: str) -> None:
        path = self.folder / FORMATS[name][0]
        if path.name == WEIGHTS_FILE:
            dtype = torch.float16 if name == "safetensors-float16" else torch.float32
            self.stock = write_weights(self.model, self.folder, dtype)
        elif name == "pt2":
            write_pt2(self.program, path, self.facts)
        else:
            self._write_onnx(name, path)

    def _write_onnx(self, name: str, path: Path) -> None:
        if self.processor is not None:
            write_predict(self.processor, self.folder)
        source = self.folder / FORMATS["onnx"][0]
        if not source.exists():
            source = path if name == "onnx" else self.source
        if not source.exists():
            write_onnx(self.program, source, self.inputs, self.facts)
        if name == "onnx-float16":
            halve_onnx(source, path, self.facts)
        elif name == "onnx-int8-dynamic":
            quantize_dynamic(source, path, self.facts)
        elif name == "onnx-int8-static":
            quantize_static(source, path, self.facts, self.calibration)


class _Reference:
    """What every file is compared with."""

    def __init__(self, model: PreTrainedModel, data: "Split | None") -> None:
        self.model, self.data = model, data
        if data is None:
            self.inputs, self.source = example_inputs(model), "made-up inputs"
        else:
            self.inputs, _ = next(data.batches(COMPARED_EXAMPLES))
            self.source = f"{len(next(iter(self.inputs.values())))} examples of {data.name} {data.split}"
        with torch.inference_mode():
            self.logits = model(**self.inputs).logits

    def check(self, name: str, folder: Path) -> dict[str, Any]:
        """Read one format back; what it measures."""
        path = folder / FORMATS[name][0]
        if path.name == WEIGHTS_FILE:
            again: Any = load_submodel(folder)
        else:
            again = GraphClassifier(path, self.model.config, tuple(self.inputs))
        with torch.inference_mode():
            difference = float((again(**self.inputs).logits - self.logits).abs().max())
        limit = TOLERANCE * max(1.0, float(self.logits.abs().max()))
        if name in FLOAT32 and not difference <= limit:
            raise DeploymentError(
                f"{name} computes logits that differ by {difference:.1e}, above {limit:.1e}, on {self.source}: "
                "do not use it; report the versions of torch, transformers and onnxruntime"
            )
        found = {
            "file": path.name,
            "bytes": sum(file.stat().st_size for file in folder.glob(f"{path.name}*")),
            "max_logit_difference": difference,
            "compared_on": self.source,
        }
        if self.data is not None:
            result = evaluate(again, self.data)
            numbers = {key: getattr(result, key) for key in ("accuracy", "low", "high", "f1", "loss", "examples")}
            found["evaluation"] = {"dataset": self.data.name, "split": self.data.split, **numbers}
        return found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def model_card(name: str, content: Mapping[str, Any]) -> str:
    """The text of `README.md`, in the form of the Hugging Face hub."""
    provenance = content.get("provenance", {})
    head = ["---", "library_name: transformers"]
    if dataset := provenance.get("dataset"):
        head.append(f"datasets: [{dataset}]")
    head += ["---", f"# {name}", ""]
    parts = ["\n".join(head), _what(content), _formats(content["formats"]), _use(content)]
    if "chosen" in content:
        parts.append(f"## How it was chosen\n\n{content['chosen']}")
    parts.append(f"## Provenance\n\n{_card_provenance(provenance)}")
    return "\n\n".join(parts) + "\n"


def _what(content: Mapping[str, Any]) -> str:
    origin = f" of the scalable network `{content['checkpoint']}`" if "checkpoint" in content else ""
    fingerprint = f" (fingerprint `{content['fingerprint']}`)" if "fingerprint" in content else ""
    macs = f", {content['macs']:,} MACs for one example" if content.get("macs") else ""
    return "\n".join(
        [
            f"A submodel{origin}{fingerprint}: {content['parameters']:,} parameters{macs}.",
            "It was cut out and not trained further.",
            "",
            f"- hidden width {content['hidden']}",
            f"- attention widths {', '.join(map(str, content['attention']))}",
            f"- FFN widths {', '.join(map(str, content['ffn']))}",
            f"- classes: {', '.join(content['labels'])}",
        ]
    )


def _formats(formats: Mapping[str, Any]) -> str:
    lines = ["| format | file | MB | accuracy | 95 % interval | examples | largest difference of a logit |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, found in formats.items():
        result = found.get("evaluation")
        measured = "not measured | | |"
        if result:
            where = f"{result['examples']:,} of {result['dataset']} {result['split']}"
            measured = f"{result['accuracy']:.2%} | {result['low']:.2%} to {result['high']:.2%} | {where} |"
        lines.append(
            f"| {name} | `{found['file']}` | {found['bytes'] / 1e6:.2f} | {measured} "
            f"{found['max_logit_difference']:.1e} ({found['compared_on']}) |"
        )
    return "\n".join(lines)


def _use(content: Mapping[str, Any]) -> str:
    formats, lines = content["formats"], ["## Use", ""]
    if any(name.startswith("safetensors") for name in formats):
        stock = f"`{content['auto_class']}.from_pretrained(folder)` (an ordinary Hugging Face folder)"
        ours = "`raffm_utils.load_submodel(folder)` (`transformers` alone cannot say these widths)"
        lines.append(f"- safetensors: {stock if content['stock'] else ours}")
    if graphs := [found["file"] for name, found in formats.items() if name.startswith("onnx")]:
        lines.append(f"- ONNX: `python predict.py {graphs[0]} ...` needs onnxruntime, numpy, and pillow or tokenizers")
    if "pt2" in formats:
        lines.append("- pt2: `torch.export.load('model.pt2').module()` takes the inputs by position, and gives logits")
    return "\n".join(lines)


def _card_provenance(provenance: Mapping[str, Any]) -> str:
    if not provenance:
        return "Not known."
    return f"```json\n{json.dumps(provenance, indent=1)}\n```"
