"""The trees of a graph as a LightGBM model, so that its exact SHAP can be asked of any boosted trees that we serve."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import lightgbm
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from pipelines.errors import TrainingError

_MOST_ROWS = 2**30  # LightGBM counts in int32
# Bits of `decision_type` in LightGBM's text: a set of codes, where missing goes, and that NaN is missing.
_CODES, _DEFAULT_LEFT, _NAN = 1, 2, 8


class CodeSet(NamedTuple):
    """Codes of column `feature` that a split sends left."""

    feature: int
    codes: tuple[int, ...]

    @property
    def words(self) -> list[int]:
        """As bits of 32-bit words."""
        found = [0] * (max(self.codes) // 32 + 1)
        for code in self.codes:
            found[code // 32] |= 1 << code % 32
        return found


@dataclass(frozen=True, eq=False)
class Forest:
    """Parallel arrays over all nodes of all trees, as ONNX's TreeEnsembleRegressor names them.

    tree, node, feature, left, right int64; leaf, missing_left bool; threshold, value, rows float64. A row goes left
    where x <= threshold; `value` of a leaf; `rows`: how many fit rows reached the node.
    """

    tree: npt.NDArray[np.int64]
    node: npt.NDArray[np.int64]
    feature: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    leaf: npt.NDArray[np.bool_]
    missing_left: npt.NDArray[np.bool_]
    threshold: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    rows: npt.NDArray[np.float64]

    @classmethod
    def of_node(cls, node: onnx.NodeProto) -> Self:
        """Read from a graph.

        Raises:
            TrainingError: a comparison that is neither <= nor <, or no counts of rows.
        """
        found = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        modes = np.array([mode.decode() for mode in found["nodes_modes"]])
        if strange := set(modes) - {"LEAF", "BRANCH_LEQ", "BRANCH_LT"}:
            raise TrainingError(f"trees compare by {', '.join(sorted(strange))}; only <= and < are explained")
        if "nodes_hitrates" not in found:
            raise TrainingError("the graph does not say how many rows its nodes had; train again with this version")
        threshold = np.array(found["nodes_values"], np.float32)
        threshold = np.where(modes == "BRANCH_LT", np.nextafter(threshold, np.float32(-np.inf)), threshold)
        tree, number = np.array(found["nodes_treeids"], np.int64), np.array(found["nodes_nodeids"], np.int64)
        places = {key: place for place, key in enumerate(zip(tree.tolist(), number.tolist(), strict=True))}
        value = np.zeros(len(tree))
        leaves = zip(found["target_treeids"], found["target_nodeids"], found["target_weights"], strict=True)
        for at_tree, at_node, weight in leaves:
            value[places[at_tree, at_node]] += weight
        if base := found.get("base_values"):
            value[(modes == "LEAF") & (tree == tree[0])] += base[0]
        return cls(
            tree=tree,
            node=number,
            feature=np.array(found["nodes_featureids"], np.int64),
            left=np.array(found["nodes_truenodeids"], np.int64),
            right=np.array(found["nodes_falsenodeids"], np.int64),
            leaf=modes == "LEAF",
            missing_left=np.array(found["nodes_missing_value_tracks_true"], bool),
            threshold=threshold.astype(np.float64),
            value=value,
            rows=np.array(found["nodes_hitrates"], np.float64),
        )


def booster_of(forest: Forest, columns: int, sets: Sequence[CodeSet] = ()) -> lightgbm.Booster:
    """A booster of the same trees over `columns` columns, whose `pred_contrib` is exact SHAP.

    A split of column `columns` + i sends the codes of `sets[i]` left.
    """
    starts = np.flatnonzero(np.r_[True, forest.tree[1:] != forest.tree[:-1]])
    ends = np.r_[starts[1:], len(forest.tree)]
    trees = [
        _tree(forest, slice(a, b), number, columns, sets)
        for number, (a, b) in enumerate(zip(starts, ends, strict=True))
    ]
    head = [
        "tree",
        "version=v4",
        "num_class=1",
        "num_tree_per_iteration=1",
        "label_index=0",
        f"max_feature_idx={columns - 1}",
        "objective=regression",
        "feature_names=" + " ".join(f"c{i}" for i in range(columns)),
        "feature_infos=" + " ".join(["[-1e300:1e300]"] * columns),
        "",
    ]
    text = "\n".join([*head, *trees, "end of trees", ""])
    return lightgbm.Booster(model_str=text)


def _tree(forest: Forest, part: slice, number: int, columns: int, sets: Sequence[CodeSet]) -> str:
    """One tree in LightGBM's text format: inner nodes by number from 0, leaves as -1 - number."""
    leaf, rows, value = forest.leaf[part], forest.rows[part], forest.value[part]
    inner = ~leaf
    names = np.where(leaf, -1 - (np.cumsum(leaf) - 1), np.cumsum(inner) - 1)
    by_node = dict(zip(forest.node[part].tolist(), names.tolist(), strict=True))
    scale = 1.0 if (rows == np.round(rows)).all() else _MOST_ROWS / max(rows.max(), 1e-300)  # sums of hessians
    counts = np.maximum(np.round(rows * scale), 1).astype(np.int64)
    feature = forest.feature[part][inner]
    asked = [sets[i] for i in (feature[feature >= columns] - columns).tolist()]
    lines: dict[str, Sequence[object]] = {"num_leaves": [int(leaf.sum())], "num_cat": [len(asked)]}
    if inner.any():
        kinds = np.where(forest.missing_left[part][inner], _DEFAULT_LEFT | _NAN, _NAN)
        threshold = np.clip(forest.threshold[part][inner], -1e300, 1e300)
        coded = feature >= columns
        feature[coded], kinds[coded], threshold[coded] = [each.feature for each in asked], _CODES, range(len(asked))
        lines |= {
            "split_feature": feature.tolist(),
            "split_gain": [0] * int(inner.sum()),
            "threshold": [repr(each) for each in threshold.tolist()],
            "decision_type": kinds.tolist(),
            "left_child": [by_node[node] for node in forest.left[part][inner].tolist()],
            "right_child": [by_node[node] for node in forest.right[part][inner].tolist()],
        }
    lines["leaf_value"] = [repr(each) for each in value[leaf].tolist()]
    if inner.any():
        lines |= {
            "leaf_weight": [0] * int(leaf.sum()),
            "leaf_count": counts[leaf].tolist(),
            "internal_value": [0] * int(inner.sum()),
            "internal_weight": [0] * int(inner.sum()),
            "internal_count": counts[inner].tolist(),
        }
    if asked:
        words = [each.words for each in asked]
        lines |= {"cat_boundaries": np.r_[0, np.cumsum([len(each) for each in words])].tolist()}
        lines |= {"cat_threshold": [word for each in words for word in each]}
    lines |= {"is_linear": [0], "shrinkage": [1]}
    body = [f"{name}={' '.join(map(str, values))}" for name, values in lines.items()]
    return "\n".join([f"Tree={number}", *body, "", ""])
