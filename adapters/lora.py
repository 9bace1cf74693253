"""LoRA (Hu et al. 2021, arXiv:2106.09685) in plain PyTorch: y = W x + s B A x, with W frozen and only A and B trained.

A is [rank, in], B is [out, rank] and starts at zero, so that training begins at the base. s is alpha / rank, or
alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023, arXiv:2312.03732). Several adapters live on one base, one active at
a time. W may be quantised (see `adapters.quantization`): the layer only calls it. DoRA (Liu et al. 2024,
arXiv:2402.09353) is here to be compared in training; vLLM does not serve it.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """What an adapter is made of. `targets` are the last parts of module names; `dropout` acts on A's input."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ATTENTION_AND_MLP
    rslora: bool = False
    dora: bool = False

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class Factors(nn.Module):
    """One adapter's A and B (and DoRA's magnitude) for one linear layer."""

    def __init__(self, base: nn.Linear, config: LoraConfig) -> None:
        super().__init__()
        # A quantised weight is no float: the factors are float32 then. Half-precision bases get float32 factors, too.
        device = base.weight.device
        self.a = nn.Parameter(torch.empty(config.rank, base.in_features, device=device))
        self.b = nn.Parameter(torch.zeros(base.out_features, config.rank, device=device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.dropout = nn.Dropout(config.dropout)
        self.scale = config.scale
        self.magnitude: nn.Parameter | None = None
        if config.dora:
            if type(base) is not nn.Linear:
                raise ValueError("DoRA needs the base's plain weights: train it without 4-bit quantisation")
            self.magnitude = nn.Parameter(base.weight.detach().float().norm(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.scale * (self.dropout(x.to(self.a.dtype)) @ self.a.T @ self.b.T)
        return out

    def delta(self) -> Tensor:
        """The change of W, [out, in]."""
        change: Tensor = self.scale * (self.b @ self.a)
        return change

    def dora(self, base: nn.Linear, x: Tensor) -> Tensor:
        """m (W + BA) x / |W + BA|, the norm per row treated as a constant in the gradient (section 4.3 there)."""
        assert self.magnitude is not None
        x = self.dropout(x.to(self.a.dtype))
        norm = (base.weight.to(self.a.dtype) + self.delta()).norm(dim=1).detach()
        out: Tensor = (x @ base.weight.to(self.a.dtype).T + self.scale * (x @ self.a.T @ self.b.T)) * (
            self.magnitude / norm
        )
        return out if base.bias is None else out + base.bias

    def merged(self, weight: Tensor) -> Tensor:
        """W with the adapter inside."""
        total: Tensor = weight.to(self.a.dtype) + self.delta()
        if self.magnitude is not None:
            total = total * (self.magnitude / total.norm(dim=1)).unsqueeze(1)
        out: Tensor = total.to(weight.dtype)
        return out


class LoraLinear(nn.Module):
    """A frozen linear layer with named adapters beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.adapters = nn.ModuleDict()
        self.active: str | None = None
        self._unmerged: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        factors = self.factors(self.active)
        if factors is not None and factors.magnitude is not None and self._unmerged is None:
            return factors.dora(self.base, x).to(x.dtype)
        out: Tensor = self.base(x)
        return out if factors is None or self._unmerged is not None else out + factors(x).to(out.dtype)

    def factors(self, name: str | None) -> Factors | None:
        """Adapter `name`'s part here, if it has one."""
        found = self.adapters[name] if name is not None and name in self.adapters else None
        return found if isinstance(found, Factors) else None

    def merge(self) -> None:
        """Put the active adapter into W. The old W is kept, so that `unmerge` is exact and not merely close."""
        factors = self.factors(self.active)
        if factors is None or self._unmerged is not None:
            return
        if type(self.base) is not nn.Linear:
            raise ValueError("cannot merge into a quantised base: load it in full precision to merge")
        self._unmerged = self.base.weight.data
        self.base.weight.data = factors.merged(self.base.weight.data)

    def unmerge(self) -> None:
        if self._unmerged is not None:
            self.base.weight.data, self._unmerged = self._unmerged, None


def layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Every adapted layer with its name in the base, e.g. `model.layers.0.self_attn.q_proj`."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def inject(model: nn.Module, config: LoraConfig, name: str = "default") -> int:
    """Freeze `model`, add adapter `name` at its target layers, make it active; returns the number of layers.

    Raises `ValueError` where no linear layer has one of the target names, or the adapter is there already.
    """
    model.requires_grad_(False)
    found = 0
    for path, module in list(model.named_modules()):
        if path.rpartition(".")[2] not in config.targets or not isinstance(module, nn.Linear | LoraLinear):
            continue
        if isinstance(module, nn.Linear):
            parent = model.get_submodule(path.rpartition(".")[0])
            module = LoraLinear(module)
            setattr(parent, path.rpartition(".")[2], module)
        if name in module.adapters:
            raise ValueError(f"adapter {name!r} is on this base already")
        module.adapters[name] = Factors(module.base, config)
        found += 1
    if not found:
        raise ValueError(f"no linear layer of this base is named one of {', '.join(config.targets)}")
    activate(model, name)
    return found


def activate(model: nn.Module, name: str | None) -> None:
    """Switch to adapter `name`, or to the bare base with None. Only the active adapter can be trained."""
    if name is not None and all(name not in layer.adapters for _, layer in layers(model)):
        raise KeyError(f"no adapter {name!r} on this base")
    for _, layer in layers(model):
        layer.unmerge()
        layer.active = name
        for key, factors in layer.adapters.items():
            factors.requires_grad_(key == name)


@contextmanager
def merged(model: nn.Module) -> Iterator[nn.Module]:
    """The model with its active adapter inside the weights, for the length of the block."""
    try:
        for _, layer in layers(model):
            layer.merge()
        yield model
    finally:
        for _, layer in layers(model):
            layer.unmerge()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adapter_state(model: nn.Module, name: str = "default") -> dict[str, Tensor]:
    """The adapter's tensors under PEFT's names."""
    state: dict[str, Tensor] = {}
    for path, layer in layers(model):
        factors = layer.factors(name)
        if factors is not None:
            state[f"{PREFIX}{path}.lora_A.weight"] = factors.a.detach().cpu().contiguous()
            state[f"{PREFIX}{path}.lora_B.weight"] = factors.b.detach().cpu().contiguous()
            if factors.magnitude is not None:
                state[f"{PREFIX}{path}.lora_magnitude_vector"] = factors.magnitude.detach().cpu().contiguous()
    return state


def load_adapter_state(model: nn.Module, state: Mapping[str, Tensor], name: str = "default") -> None:
    """Fill adapter `name`, injected before, from PEFT's names. Raises `ValueError` unless all of it fits."""
    expected = adapter_state(model, name)
    if set(expected) != set(state):
        wrong = sorted(set(expected) ^ set(state))
        raise ValueError(f"the adapter's tensors do not fit this base: {len(wrong)} names differ, first {wrong[0]}")
    for key, tensor in expected.items():
        if tensor.shape != state[key].shape:
            raise ValueError(f"{key} is {tuple(state[key].shape)}, this base needs {tuple(tensor.shape)}")
    with torch.no_grad():
        for path, layer in layers(model):
            factors = layer.factors(name)
            if factors is not None:
                factors.a.copy_(state[f"{PREFIX}{path}.lora_A.weight"])
                factors.b.copy_(state[f"{PREFIX}{path}.lora_B.weight"])
                if factors.magnitude is not None:
                    factors.magnitude.copy_(state[f"{PREFIX}{path}.lora_magnitude_vector"])
