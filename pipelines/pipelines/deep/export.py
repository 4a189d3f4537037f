"""A trained network as one ONNX graph, written by torch.onnx: inputs, scaling, heads and their weights inside."""

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from pipelines.deep.heads import Heads
from pipelines.deep.models import RankNet
from pipelines.errors import TrainingError

OPSET = 18  # the exporter's own; ONNX Runtime from 1.14 on runs it


class Scorer(nn.Module):
    """What is served: `features` float32 (n, F), `int_features` int64 (n, K) -> `score` float32 (n, 1), and of several
    heads `heads` float32 (n, H), their predictions, which rules may weigh otherwise.
    """

    def __init__(self, net: RankNet, heads: Heads) -> None:
        super().__init__()
        self.net, self.heads = net, heads

    def forward(self, features: Tensor, int_features: Tensor) -> tuple[Tensor, ...]:
        """One score a row; of several heads the weighted sum of their predictions, and these."""
        predictions = self.heads(self.net(features, int_features))
        score = self.heads.score(predictions)
        return (score, predictions) if len(self.heads.heads) > 1 else (score,)


def export(net: RankNet, heads: Heads, path: Path) -> None:
    """Write the graph to `path`; any number of rows, at least one. Its inputs are those of the bundle.

    A network that reads no codes gives a graph without `int_features`.
    """
    scorer = Scorer(net, heads).eval()
    columns = net.inputs.columns
    # Two rows: from a single one the exporter would take the number 1 for a constant.
    rows = (torch.zeros(2, columns.features), torch.zeros(2, columns.ints, dtype=torch.int64))
    n = torch.export.Dim("n", min=1)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of torchvision, which nothing here needs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own insides
            program = torch.onnx.export(
                scorer,
                rows,
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=["features", "int_features"],
                output_names=["score", "heads"] if len(heads.heads) > 1 else ["score"],
                dynamic_shapes=({0: n}, {0: n}),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    if program is None:
        raise TrainingError("torch.onnx gave no graph; is dynamo=True still its exporter?")
    model = program.model_proto
    _drop_unread(model)
    model.producer_name = "millrace"
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _drop_unread(model: onnx.ModelProto) -> None:
    """Take away an input that no node reads, and notes that tell of the machine it was made on."""
    read = {name for node in model.graph.node for name in node.input}
    for value in [value for value in model.graph.input if value.name not in read and value.name != "features"]:
        model.graph.input.remove(value)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
