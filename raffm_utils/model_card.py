"""The model card of an exported submodel, written from the facts and measurements in its `submodel.json`."""

import json
from collections.abc import Mapping
from typing import Any


def card(name: str, content: Mapping[str, Any]) -> str:
    """The text of `README.md`, in the form of the Hugging Face hub."""
    provenance = content.get("provenance", {})
    head = ["---", "library_name: transformers"]
    if dataset := provenance.get("dataset"):
        head.append(f"datasets: [{dataset}]")
    head += ["---", f"# {name}", ""]
    parts = ["\n".join(head), _what(content), _formats(content["formats"]), _use(content)]
    if "chosen" in content:
        parts.append(f"## How it was chosen\n\n{content['chosen']}")
    parts.append(f"## Provenance\n\n{_provenance(provenance)}")
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


def _provenance(provenance: Mapping[str, Any]) -> str:
    if not provenance:
        return "Not known."
    return f"```json\n{json.dumps(provenance, indent=1)}\n```"
