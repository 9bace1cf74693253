"""QLoRA (Dettmers et al. 2023, arXiv:2305.14314): the frozen base in 4-bit NF4, the same LoRA layer on top."""

import torch
from torch import nn


def quantize_nf4(model: nn.Module, skip: tuple[str, ...] = ("lm_head",), double: bool = True) -> int:
    """Replace the linear layers of `model` by bitsandbytes' NF4 ones in place; returns how many.

    Weights are quantised in blocks of 64 (`double` quantises the blocks' scales as well); products are computed in the
    layer's old dtype. Names in `skip` stay as they are. Works on CPU and GPU.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    found = 0
    for path, module in list(model.named_modules()):
        if type(module) is not nn.Linear or path.rpartition(".")[2] in skip:
            continue
        device = module.weight.device
        layer = Linear4bit(
            module.in_features, module.out_features, bias=module.bias is not None,
            compute_dtype=module.weight.dtype, compress_statistics=double, quant_type="nf4",
        )  # fmt: skip
        weight = module.weight.detach().contiguous().cpu()
        layer.weight = Params4bit(
            weight, requires_grad=False, compress_statistics=double, quant_type="nf4", module=layer
        )
        if module.bias is not None:
            layer.bias = nn.Parameter(module.bias.detach().cpu(), requires_grad=False)
        setattr(model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], layer.to(device))
        found += 1
    return found


def memory(model: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
