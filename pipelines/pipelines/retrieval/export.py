"""Retrieval models as files of a bundle: what `bundle.retrieval` reads."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from bundle import retrieval as files
from onnx import TensorProto, helper

from pipelines.errors import ParityError
from pipelines.export.nodes import Nodes
from pipelines.retrieval.interactions import Ids
from pipelines.retrieval.item_item import NEIGHBOURS, ItemItem
from pipelines.retrieval.towers import TwoTower

GOLDEN_ROWS = 64
TOLERANCE = 1e-5  # of a graph against the arrays that it was written from


def export_towers(model: TwoTower, item_ids: Ids, folder: Path, *, newest: int = 64) -> dict[str, Path]:
    """Write ids, item vectors, user tower and its golden vectors to `folder`: file name -> path.

    The tower names the hash of ids and vectors: beside those of another training it is refused.

    Args:
        model: of the items in the order of `item_ids`.
        item_ids: uint64 (items,), sorted.
        folder: exists.
        newest: items of a user's history that the tower reads.

    Raises:
        ParityError: the graph gives other vectors than the model.
    """
    paths = {name: folder / name for name in (files.ITEM_IDS, files.ITEM_VECTORS, files.USER_TOWER, files.TOWER_GOLDEN)}
    np.save(paths[files.ITEM_IDS], item_ids)
    np.save(paths[files.ITEM_VECTORS], model.items)
    graph = Nodes()
    _put_user(graph, model, files.HISTORY, newest, files.USER_VECTOR)
    graph.say(**{files.INDEX: files.index_hash(item_ids, model.items)})
    graph.write(
        paths[files.USER_TOWER],
        "user_tower",
        [helper.make_tensor_value_info(files.HISTORY, TensorProto.INT64, [None, newest])],
        helper.make_tensor_value_info(files.USER_VECTOR, TensorProto.FLOAT, [None, model.items.shape[1]]),
    )
    history = _histories(len(item_ids), newest)
    found = files.UserTower(paths[files.USER_TOWER]).vectors(history)
    worst = float(np.abs(found - model.users_of(history)).max())
    if not worst <= TOLERANCE:
        raise ParityError(f"{files.USER_TOWER}: vectors differ by {worst:.3g}, at most {TOLERANCE:g} is allowed")
    np.savez_compressed(paths[files.TOWER_GOLDEN], history=history, user_vector=found)
    return paths


def export_scorer(
    model: TwoTower,
    path: Path,
    *,
    features: int,
    ints: int,
    history: npt.NDArray[np.int64],
    item: int,
    slope: float,
    shift: float,
) -> None:
    """Write the model as a ranker's graph: `features` and `int_features` -> `score`, the vectors' product, calibrated.

    Args:
        model: of the items with codes 1 to its size.
        path: of the graph.
        features: F, which the graph takes like every ranker and does not read.
        ints: K, the width of `int_features`.
        history: int64 (k,), places of the history's codes among them; 0 = none.
        item: place of the candidate's code; 0 = unknown, whose product is 0.
        slope, shift: score = sigmoid(slope x product + shift).
    """
    graph = Nodes()
    graph.constants(
        item_place=np.array(item, np.int64),
        summed=np.ones((model.items.shape[1], 1), np.float32),
        item_table=_table(model.items),
        slope=np.array(slope, np.float32),
        shift=np.array(shift, np.float32),
    )
    graph.columns("int_features", history, "history")
    _put_user(graph, model, "history", len(history), "user")
    graph.node("Gather", ["int_features", "item_place"], "item", axis=1)
    graph.node("Gather", ["item_table", "item"], "item_vector", axis=0)
    graph.node("Mul", ["user", "item_vector"], "products")
    graph.node("MatMul", ["products", "summed"], "product")
    graph.node("Mul", ["product", "slope"], "sloped")
    graph.node("Add", ["sloped", "shift"], "logit")
    graph.node("Sigmoid", ["logit"], "score")
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, features]),
        helper.make_tensor_value_info("int_features", TensorProto.INT64, [None, ints]),
    ]
    graph.write(path, "score", inputs, helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1]))


def export_neighbours(model: ItemItem, item_ids: Ids, folder: Path, *, neighbours: int = NEIGHBOURS) -> dict[str, Path]:
    """Write the `neighbours` nearest of each item to `folder`: file name -> path.

    Args:
        model: of the items in the order of `item_ids`.
        item_ids: uint64 (items,), sorted.
        folder: exists.
        neighbours: kept for each item.
    """
    width = min(neighbours, len(item_ids))
    places = np.argpartition(-model.weights, width - 1, axis=1)[:, :width].astype(np.int32)
    weights = np.take_along_axis(model.weights, places, axis=1)
    places, weights = np.where(weights > 0, places, -1).astype(np.int32), np.maximum(weights, 0).astype(np.float32)
    path = folder / files.NEIGHBOURS
    np.savez_compressed(path, item_ids=item_ids, places=places, weights=weights)
    return {files.NEIGHBOURS: path}


def _put_user(graph: Nodes, model: TwoTower, history: str, newest: int, output: str) -> None:
    """int64 [n, newest] codes -> float32 [n, width], as `TwoTower.users_of`: the tower that both graphs have."""
    graph.constants(
        each_once=np.ones((1, newest), np.float32),
        history_table=_table(model.history),
        bias=model.bias[None, :],
        none=np.array(0, np.int64),
        one=np.array(1, np.float32),
        slots=np.array([1], np.int64),
    )
    graph.node("Gather", ["history_table", history], "history_vectors", axis=0)
    # Not ReduceSum, here and in `export_scorer`: the order it adds in depends on the rows beside (parity.unstable).
    graph.node("MatMul", ["each_once", "history_vectors"], "total_3d")
    graph.node("Squeeze", ["total_3d", "slots"], "total")
    graph.node("Greater", [history, "none"], "known")
    graph.node("Cast", ["known"], "known_f", to=TensorProto.FLOAT)
    graph.node("ReduceSum", ["known_f", "slots"], "count", keepdims=1)
    graph.node("Max", ["count", "one"], "count_at_least_1")
    graph.node("Sqrt", ["count_at_least_1"], "root")
    graph.node("Div", ["total", "root"], "scaled")
    graph.node("Add", ["scaled", "bias"], output)


def _table(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """With a first row of zeros for code 0: what is absent adds nothing."""
    return np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors])


def _histories(items: int, newest: int) -> npt.NDArray[np.int64]:
    """int64 (GOLDEN_ROWS, newest): histories of every length from none to full, codes 0 to items."""
    rng = np.random.default_rng(0)
    codes = rng.integers(1, items + 1, (GOLDEN_ROWS, newest))
    return np.where(np.arange(newest) < np.linspace(0, newest, GOLDEN_ROWS)[:, None], codes, 0).astype(np.int64)
