"""Standalone submodels: one folder with the requested formats, each read back and verified."""

import copy
import html
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import PreTrainedModel

from ..errors import CheckpointError, DeploymentError, printable
from ..evaluation import Evaluation, check_colours, class_names, evaluate, in_eval_mode, labels_of, logits_of
from ..space import SubmodelConfig, family_of
from ..writing import staged
from .graphs import (
    GraphClassifier,
    check_calibration,
    halve_onnx,
    made_up_inputs,
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


@dataclass(frozen=True)
class ExportedFile:
    """One format, read back: the largest error of its logits on `compared_on`, and its `evaluation` if measured."""

    format: str
    file: str
    bytes: int
    max_logit_difference: float
    compared_on: str
    dataset: str | None = None
    split: str | None = None
    evaluation: Evaluation | None = None

    def to_json(self) -> dict[str, Any]:
        """As in `submodel.json`, under the name of the format."""
        kept = ("file", "bytes", "max_logit_difference", "compared_on")
        content = {key: getattr(self, key) for key in kept}
        if self.evaluation is not None:
            measured = ("accuracy", "low", "high", "f1", "loss", "examples")
            numbers = {key: getattr(self.evaluation, key) for key in measured}
            content["evaluation"] = {"dataset": self.dataset, "split": self.split, **numbers}
        return content


@dataclass(frozen=True)
class Export:
    """The content of an exported folder; `stock` if `transformers` alone can load it, `about` as given."""

    about: Mapping[str, Any]
    model_type: str
    auto_class: str
    stock: bool
    config: SubmodelConfig
    parameters: int
    labels: tuple[str, ...]
    versions: Mapping[str, str]
    formats: tuple[ExportedFile, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `submodel.json` says."""
        return {
            **self.about,
            "model_type": self.model_type,
            "auto_class": self.auto_class,
            "stock": self.stock,
            **vars(self.config),
            "parameters": self.parameters,
            "labels": self.labels,
            "versions": self.versions,
            "formats": {found.format: found.to_json() for found in self.formats},
        }


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
) -> Export:
    """Write a submodel from `Supernet.extract` as a folder that needs no supernet.

    `formats` are keys of `FORMATS`; a model in half precision or on a device is exported as the same weights in
    float32 on the CPU. Each file is read back and its logits are compared with those of `model`, on
    `data` where it is given, whose accuracy is then measured too. `calibration` examples are for static int8;
    `about` are facts for the model card; `on_step(what)` is called before every file written or read back.
    Raises `DeploymentError`; the folder then does not exist.

    Example:
        model = supernet.extract(supernet.space.smallest())
        export_submodel(model, "client", ("safetensors",), processor=supernet.processor)
        load_submodel("client")  # the same model, without the supernet
    """
    folder, formats, model = Path(folder).expanduser(), check_formats(formats), _whole(in_eval_mode(model))
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
        family = family_of(model.config.model_type)
        export = Export(
            about=dict(about or {}),
            model_type=family.model_type,
            auto_class=family.auto_class,
            stock=writer.stock,
            config=widths_of(model),
            parameters=parameters,
            labels=tuple(labels_of(model)),
            versions={name: version(name) for name in ("torch", "transformers")},
        )
        _write_json(part / SUBMODEL_FILE, export.to_json())
        reference = _Reference(model, data)
        for name in formats:
            on_step(f"check {name}")
            export = replace(export, formats=(*export.formats, reference.check(name, part)))
        _write_json(part / SUBMODEL_FILE, export.to_json())
        (part / "README.md").write_text(model_card(folder.name, export), encoding="utf-8")
    return export


def _whole(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself if it computes in float32 on the CPU; otherwise a copy that does."""
    if all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters()):
        return model
    copied: Any = copy.deepcopy(model)
    return cast(PreTrainedModel, copied.to("cpu", torch.float32))


def check_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """The formats, each once, in the order of `FORMATS`; raises `DeploymentError` for unknown or unavailable ones."""
    asked = set([formats] if isinstance(formats, str) else formats)
    if not asked or (unknown := asked - set(FORMATS)):
        named = ", ".join(sorted(unknown)) if asked else "none"
        raise DeploymentError(f"formats: {named}: known are {', '.join(FORMATS)}")
    if {"safetensors", "safetensors-float16"} <= asked:
        raise DeploymentError(f"safetensors and safetensors-float16 are both {WEIGHTS_FILE}: ask for one of them")
    if any(name.startswith("onnx") for name in asked):
        require("onnx", "onnxscript", "onnxruntime")
    return tuple(name for name in FORMATS if name in asked)


def _facts(
    model: PreTrainedModel, formats: tuple[str, ...], processor: Any, calibration: "Split | None"
) -> dict[str, str]:
    """The metadata of graph files, as JSON; raises before any work if a format lacks something it needs."""
    facts = {"labels": json.dumps(labels_of(model)), "submodel": json.dumps(vars(widths_of(model)))}
    if any(name.startswith("onnx") for name in formats):
        facts |= {} if processor is None else {"preprocessing": json.dumps(_client_settings(model, processor))}
    if "onnx-int8-static" in formats:
        check_calibration(calibration)
    return facts


def _client_settings(model: PreTrainedModel, processor: Any) -> dict[str, Any]:
    """What `predict.py` has to know, which prints the most likely class."""
    try:
        check_colours(model)
        class_names(model)
    except CheckpointError as error:
        raise DeploymentError(f"predict.py cannot answer for it: {error}; or export with processor=None") from error
    return settings_of(processor)


class _Writer:
    """Writes the files one by one and makes what several of them need only once."""

    def __init__(
        self,
        model: PreTrainedModel,
        folder: Path,
        processor: Any,
        calibration: "Split | None",
        facts: Mapping[str, str],
    ) -> None:
        self.model, self.folder, self.processor, self.calibration = model, folder, processor, calibration
        self.inputs, self.facts = tuple(made_up_inputs(model)), facts
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
    """The submodel that every file is compared with."""

    def __init__(self, model: PreTrainedModel, data: "Split | None") -> None:
        self.model, self.data = model, data
        if data is None:
            self.inputs, self.source = made_up_inputs(model), "made-up inputs"
        else:
            self.inputs, _ = next(data.batches(COMPARED_EXAMPLES))
            self.source = f"{len(next(iter(self.inputs.values())))} examples of {data.name} {data.split}"
        with torch.inference_mode():
            self.logits = logits_of(model, self.inputs).float().cpu()

    def check(self, name: str, folder: Path) -> ExportedFile:
        """Read one format back, compare and measure it."""
        path = folder / FORMATS[name][0]
        if path.name == WEIGHTS_FILE:
            again: Any = load_submodel(folder)
        else:
            again = GraphClassifier(path, self.model.config, tuple(self.inputs))
        with torch.inference_mode():
            difference = float((logits_of(again, self.inputs).float().cpu() - self.logits).abs().max())
        limit = TOLERANCE * max(1.0, float(self.logits.abs().max()))
        if name in FLOAT32 and not difference <= limit:
            raise DeploymentError(
                f"{name} computes logits that differ by {difference:.1e}, above {limit:.1e}, on {self.source}: "
                "do not use it; report the versions of torch, transformers and onnxruntime"
            )
        size = sum(file.stat().st_size for file in folder.glob(f"{path.name}*"))
        found = ExportedFile(name, path.name, size, difference, self.source)
        if self.data is None:
            return found
        measured = evaluate(again, self.data)
        return replace(found, dataset=self.data.name, split=self.data.split, evaluation=measured)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def model_card(name: str, export: Export) -> str:
    """The text of `README.md`, in the form of the Hugging Face hub."""
    provenance = export.about.get("provenance", {})
    head = ["---", "library_name: transformers"]
    if dataset := provenance.get("dataset"):
        head.append(f"datasets: [{json.dumps(str(dataset))}]")  # JSON is YAML
    head += ["---", f"# {_text(name)}", ""]
    parts = ["\n".join(head), _what(export), _formats(export), _use(export)]
    if "chosen" in export.about:
        parts.append(f"## How it was chosen\n\n{_text(export.about['chosen'])}")
    parts.append(f"## Provenance\n\n{_card_provenance(provenance)}")
    return "\n\n".join(parts) + "\n"


def _text(value: object) -> str:
    """What a checkpoint or a caller says, as text: no HTML, no link, no cell of a table, no line of its own."""
    text = html.escape(printable(str(value)), quote=False)
    return "".join(f"&#{ord(sign)};" if sign in "`|[]*~" else sign for sign in text)


def _code(value: object) -> str:
    """A name between backticks, from which it cannot break out."""
    return f"`{''.join('?' if sign in '`<>|' else sign for sign in printable(str(value)))}`"


def _what(export: Export) -> str:
    about, config = export.about, export.config
    origin = f" of the scalable network {_code(about['checkpoint'])}" if "checkpoint" in about else ""
    fingerprint = f" (fingerprint {_code(about['fingerprint'])})" if "fingerprint" in about else ""
    macs = f", {about['macs']:,} MACs for one example" if about.get("macs") else ""
    return "\n".join(
        [
            f"A submodel{origin}{fingerprint}: {export.parameters:,} parameters{macs}.",
            "It was cut out and not trained further.",
            "",
            f"- hidden width {config.hidden}",
            f"- attention widths {', '.join(map(str, config.attention))}",
            f"- FFN widths {', '.join(map(str, config.ffn))}",
            *_left_out(config),
            f"- classes: {', '.join(map(_text, export.labels))}",
        ]
    )


def _left_out(config: SubmodelConfig) -> list[str]:
    kinds = {"attention": config.attention, "FFN": config.ffn}
    out = {kind: [str(layer) for layer, width in enumerate(widths, 1) if not width] for kind, widths in kinds.items()}
    parts = [f"{kind} of layer {', '.join(layers)}" for kind, layers in out.items() if layers]
    return [f"- left out (width 0): {'; '.join(parts)}"] if parts else []


def _formats(export: Export) -> str:
    lines = ["| format | file | MB | accuracy | 95 % interval | examples | largest difference of a logit |"]
    lines.append("|---|---|---|---|---|---|---|")
    for found in export.formats:
        measured = "not measured | | |"
        if result := found.evaluation:
            where = f"{result.examples:,} of {_text(found.dataset)} {_text(found.split)}"
            measured = f"{result.accuracy:.2%} | {result.between('.2%')} | {where} |"
        lines.append(
            f"| {found.format} | `{found.file}` | {found.bytes / 1e6:.2f} | {measured} "
            f"{found.max_logit_difference:.1e} ({_text(found.compared_on)}) |"
        )
    return "\n".join(lines)


def _use(export: Export) -> str:
    files, lines = {found.format: found.file for found in export.formats}, ["## Use", ""]
    if WEIGHTS_FILE in files.values():
        stock = f"`{export.auto_class}.from_pretrained(folder)` (an ordinary Hugging Face folder)"
        ours = "`raffm_utils.load_submodel(folder)` (`transformers` alone cannot say these widths)"
        lines.append(f"- safetensors: {stock if export.stock else ours}")
    if graphs := [file for name, file in files.items() if name.startswith("onnx")]:
        lines.append(f"- ONNX: `python predict.py {graphs[0]} ...` needs onnxruntime, numpy, and pillow or tokenizers")
    if "pt2" in files:
        lines.append("- pt2: `torch.export.load('model.pt2').module()` takes the inputs by position, and gives logits")
    return "\n".join(lines)


def _card_provenance(provenance: Mapping[str, Any]) -> str:
    if not provenance:
        return "Not known."
    return f"```json\n{json.dumps(provenance, indent=1)}\n```"
