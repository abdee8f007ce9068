"""Made-up inputs of the right form, for what needs a running model but no data: latency, graphs."""

from typing import Any

import torch
from transformers import PreTrainedModel

from ..errors import ElasticSpaceError, whole_number
from ..space import family_of


def example_inputs(
    model: PreTrainedModel, batch_size: int, tokens: int | None, padding: int = 0
) -> dict[str, torch.Tensor]:
    """Reproducible random inputs; texts have `tokens` tokens, of which the first text uses `padding` fewer."""
    batch_size = whole_number(ElasticSpaceError, 1, batch_size=batch_size)
    config: Any = model.config
    family, generator = family_of(config.model_type), torch.Generator("cpu").manual_seed(0)
    if family.is_image:
        size = config.image_size if isinstance(config.image_size, list | tuple) else [config.image_size] * 2
        shape = (batch_size, config.num_channels, *size)
        pixels = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        return {"pixel_values": pixels.to(model.device, model.dtype)}
    tokens = None if tokens is None else whole_number(ElasticSpaceError, tokens=tokens)
    if tokens is None or not 0 < tokens <= family.positions(config):
        raise ElasticSpaceError(f"tokens={tokens}: a text model is timed at 1 to {family.positions(config)} tokens")
    ids = torch.randint(config.vocab_size - 1, (batch_size, tokens), generator=generator, device="cpu")
    ids += ids >= (config.pad_token_id or 0)  # any token but the padding
    mask = torch.ones_like(ids)
    mask[0, tokens - padding :] = 0
    return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
