"""Stage 6, export: the student as an ONNX graph with 8-bit tables, checked against PyTorch.

Tables are stored as 8-bit columns, the first dense layer in half precision: what leaves must fit in 8 MB.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from router.errors import RouterError
from router.manifest import MODEL, TABLES, VOCABULARY, Manifest, write_manifest
from router.model import TinyAda
from router.tokenization import Tokenizer
from router.training.distil import logits
from router.training.student import PAIR_LEFT, PAIR_RIGHT, REACH, Student


def export(
    student: Student, vocabulary: Path, manifest: Manifest, out: Path, check: Sequence[str], tolerance: float = 0.02
) -> float:
    """Write the weights' directory ``out``; returns the share of ``check`` texts whose best label changed.

    Raises `RouterError` when that share is above ``tolerance``: nothing is then left in ``out``.
    """
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shutil.copyfile(vocabulary, part / VOCABULARY)
    onnx.save(graph(student), str(part / MODEL), save_as_external_data=True, location=TABLES, size_threshold=256)
    (part / TABLES).chmod(0o644)
    write_manifest(part, manifest)
    changed = parity(student, TinyAda.load(part), Tokenizer.load(vocabulary), check)
    if changed > tolerance:
        raise RouterError(f"the exported model answers {changed:.1%} of the check texts otherwise than PyTorch")
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    part.replace(out)
    shutil.rmtree(old, ignore_errors=True)
    return changed


def parity(student: Student, ada: TinyAda, tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Share of ``texts`` for which the exported model's best label is not PyTorch's."""
    ours = logits(student, tokenizer, texts).argmax(1)
    theirs = np.array([int(np.argmax(ada._logits(tokenizer.encode(text)))) for text in texts])
    return float((ours != theirs).mean())


def graph(student: Student) -> onnx.ModelProto:
    """The student's arithmetic for one text.

    Inputs: ``ids``, int64 (tokens,); ``bias``, the queries' scores by position, float (tokens, heads); ``length``,
    float (1, 1); where the design has pairs of tokens, ``pair_weights``, float (1, pairs), one over the root of their
    number. Outputs: ``logits``, float (1, labels); ``features``, what the dense layers read, float (1, width); and two
    constants, ``start`` and ``end``, float (64, heads), from which the caller makes ``bias``. Each further input costs
    a call more than several small nodes do.
    """
    design = student.design
    build = _Graph()
    table, scale = _quantised(student.table.weight.detach().numpy())
    rows = build.node("Cast", build.node("Gather", build.constant(table), "ids"), to=TensorProto.FLOAT)
    scores = build.node("Add", build.node("Gather", build.tensor(student.queries.weight), "ids"), "bias")
    weights = build.node("Softmax", build.node("Transpose", scores, perm=[1, 0]), axis=-1)
    scales = [build.constant(scale[None, :])] * design.heads
    features = build.node("MatMul", weights, rows)
    features = build.node("Reshape", features, build.constant(np.array([1, -1], dtype=np.int64)))
    if design.pair_buckets:
        pairs, pair_scale = _pairs(build, student)
        features = build.node("Concat", features, pairs, axis=1)
        scales.append(pair_scale)
    features = build.node("Mul", features, build.node("Concat", *scales, axis=1))  # of constants: done at loading
    norm = student.norm
    features = build.node(
        "LayerNormalization", features, build.tensor(norm.weight), build.tensor(norm.bias), axis=-1, epsilon=norm.eps
    )
    features = build.node("Concat", features, "length", axis=1, output="features")
    inner = build.node("Cast", build.half(student.inner.weight.T), to=TensorProto.FLOAT)
    hidden = build.node("Relu", build.node("Gemm", features, inner, build.tensor(student.inner.bias)))
    outer = build.tensor(student.outer.weight.T)
    build.node("Gemm", hidden, outer, build.tensor(student.outer.bias), output="logits")
    for name, bias in (("start", student.start), ("end", student.end)):
        build.node("Identity", build.tensor(bias), output=name)
    return build.model(student)


def _pairs(build: _Graph, student: Student) -> tuple[str, str]:
    """The sum of the vectors of neighbours, not scaled, and the scale of its columns."""
    buckets = student.design.pair_buckets
    one, last = build.constant(np.array([1])), build.constant(np.array([-1]))
    left = build.node("Slice", "ids", build.constant(np.array([0])), last)
    right = build.node("Slice", "ids", one, build.constant(np.array([2**31])))
    left = build.node("Mul", left, build.constant(np.array(PAIR_LEFT)))
    right = build.node("Mul", right, build.constant(np.array(PAIR_RIGHT)))
    pairs = build.node("Mod", build.node("Add", left, right), build.constant(np.array(buckets)))
    table, scale = _quantised(student.pairs.weight.detach().numpy())
    rows = build.node("Cast", build.node("Gather", build.constant(table), pairs), to=TensorProto.FLOAT)
    return build.node("MatMul", "pair_weights", rows), build.constant(scale[None, :])


def _quantised(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric 8-bit columns: table ~ result * scale; the outermost 0.02 % are clipped."""
    reach = np.quantile(np.abs(table), 0.9998, axis=0).clip(1e-8)
    scale = (reach / 127).astype(np.float32)
    return np.clip(np.round(table / scale), -127, 127).astype(np.int8), scale


class _Graph:
    """Collects nodes and constants; every method returns the name of what it made."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, value: NDArray[Any]) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def tensor(self, value: Any) -> str:
        return self.constant(value.detach().numpy().astype(np.float32))

    def half(self, value: Any) -> str:
        return self.constant(value.detach().numpy().astype(np.float16))

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def model(self, student: Student) -> onnx.ModelProto:
        heads = student.design.heads
        typed = [
            helper.make_tensor_value_info("ids", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("bias", TensorProto.FLOAT, [None, heads]),
            helper.make_tensor_value_info("length", TensorProto.FLOAT, [1, 1]),
        ]
        if student.design.pair_buckets:
            typed.append(helper.make_tensor_value_info("pair_weights", TensorProto.FLOAT, [1, None]))
        results = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, student.outer.out_features])]
        results.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, student.inner.in_features]))
        results += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [REACH, heads]) for name in ("start", "end")]
        made = helper.make_graph(self._nodes, "tinyada", typed, results, self._constants)
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        return model
