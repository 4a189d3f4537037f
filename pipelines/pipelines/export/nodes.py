"""ONNX graphs, node by node."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

# Old enough for every ONNX Runtime that serves, also the one beside the native Triton.
OPSETS = {"": 17, "ai.onnx.ml": 3}
IR_VERSION = 8


class Nodes:
    """Collects a graph's nodes and constants."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, npt.NDArray[Any]] = {}
        self._said: dict[str, str] = {}

    def constants(self, **values: npt.NDArray[Any]) -> Self:
        """Named arrays that nodes may take."""
        self._constants |= values
        return self

    def say(self, **metadata: str) -> None:
        """Metadata of the model, for people and `pipelines.explain`; runtimes read none."""
        self._said |= metadata

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """One more node."""
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    def columns(self, source: str, places: npt.NDArray[np.int64], output: str) -> None:
        """`output` [n, places]: columns of `source` [n, any]. Neighbours are sliced: ONNX Runtime's Gather copies them
        number by number, which took a third of a boosted ranker's time.
        """
        if len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places))):
            bounds = {f"{output}_from": places[:1], f"{output}_to": places[-1:] + 1}
            self.constants(columns_axis=np.array([1], np.int64), **bounds)
            self.node("Slice", [source, *bounds, "columns_axis"], output)
        else:
            self.constants(**{f"{output}_places": places})
            self.node("Gather", [source, f"{output}_places"], output, axis=1)

    def look_up(self, table: str, at: str, output: str) -> None:
        """`output`, of the shape of `at`: what the one-dimensional `table` has there. GatherElements copies by type,
        Gather by bytes, three times as slowly.
        """
        self.constants(flat=np.array([-1], np.int64))
        self.node("Reshape", [at, "flat"], f"{output}_at")
        self.node("GatherElements", [table, f"{output}_at"], f"{output}_found")
        self.node("Shape", [at], f"{output}_shape")
        self.node("Reshape", [f"{output}_found", f"{output}_shape"], output)

    def write(self, path: Path, name: str, inputs: list[onnx.ValueInfoProto], output: onnx.ValueInfoProto) -> None:
        """Write the graph, whose nodes lead from the inputs to the output."""
        weights = [numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        graph = helper.make_graph(self._nodes, name, inputs, [output], weights)
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="millrace")
        helper.set_model_props(model, self._said)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())
