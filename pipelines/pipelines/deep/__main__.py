"""`python -m pipelines.deep`, or `torchrun --nproc-per-node N -m pipelines.deep`: train one deep model on a data set.

All processes read the data and train together; the first prints one JSON object: the loss of each step, the metrics on
the test rows, a hash of the weights.
"""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from definitions.layout import layout_of
from definitions.usecase import find_usecase

from pipelines.datasets.load import AUTO, load_dataset
from pipelines.datasets.split import split_times
from pipelines.deep.checkpoint import Checkpoints
from pipelines.deep.models import BODIES, RankNet
from pipelines.deep.parallel import World, world
from pipelines.deep.rankers import LABEL, PLANS, DeepRanker, arrays_of, columns_of, fit_network, heads_of
from pipelines.deep.sharding import SHARD_BYTES
from pipelines.errors import BadInputError, PipelineError
from pipelines.evaluation.metrics import auc, evaluate, mae, rmse
from pipelines.settings import Settings
from pipelines.training.examples import Log, build_examples
from pipelines.training.ranker import Rows, TrainData, train_data


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 2 bad input."""
    asked = _parser().parse_args(arguments)
    try:
        with world() as here:
            found = _train(asked, here)
            if here.first:
                sys.stdout.write(json.dumps(found) + "\n")
    except PipelineError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.deep", description=__doc__)
    parser.add_argument("--model", choices=sorted(BODIES), default="dcn_v2")
    parser.add_argument("--usecase", default="movies", help="name or YAML file")
    parser.add_argument("--dataset", default=AUTO, help="ml-100k, synthetic or auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--batch", type=int, help="rows of a step, all processes together")
    parser.add_argument("--epochs", type=int, help="at most")
    parser.add_argument("--patience", type=int, help="epochs without a better validation loss before it ends")
    parser.add_argument("--mixed", action="store_true", help="bfloat16 also on the CPU (on GPUs it is the default)")
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, help="tables from this size on are sharded")
    parser.add_argument("--checkpoints", type=Path, help="folder; a training that was killed resumes from it")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--out", type=Path, help="write the ONNX graph there")
    return parser


def _train(asked: argparse.Namespace, here: World) -> dict[str, object]:
    data, test = _data(asked)
    plan = PLANS[asked.model]
    recipe = {name: value for name in ("batch", "epochs", "patience") if (value := getattr(asked, name)) is not None}
    plan = replace(plan, recipe=replace(plan.recipe, mixed=asked.mixed or None, **recipe))
    columns = columns_of(data.inputs, history=asked.model == "sequence")
    if asked.model == "sequence" and columns.history is None:
        raise BadInputError(f"sequence: {asked.usecase} has no history_score feature, so its models see no history")
    heads = heads_of(data.layout.usecase)
    fit, valid = arrays_of(data.fit, heads), arrays_of(data.valid, heads)
    checkpoints = None
    if asked.checkpoints:
        digest = hashlib.sha256(fit.features.tobytes() + fit.labels.tobytes()).hexdigest()[:16]
        words = f"{asked.model}, seed {asked.seed}, data {digest}, {plan}"
        checkpoints = Checkpoints(asked.checkpoints, asked.every, words)
    began = time.monotonic()
    ranker = fit_network(
        asked.model, columns, fit, valid, heads,
        plan=plan, seed=asked.seed, threads=asked.threads, world=here, shard_bytes=asked.shard_bytes,
        checkpoints=checkpoints,
    )  # fmt: skip
    seconds = time.monotonic() - began
    if here.first and asked.out:
        ranker.export(asked.out)
    return {
        "model": asked.model,
        "processes": here.size,
        "device": str(here.device),
        "seconds": seconds,
        "fit_rows": len(fit),
        "curve": ranker.state.curve,
        "valid": ranker.state.valid,
        **_figures(ranker, test, asked.seed),
        "weights": _digest(ranker.net),
    }


def _figures(ranker: DeepRanker, test: Rows, seed: int) -> dict[str, float | None]:
    """All metrics of a label; of heads the AUC of each probability, MAE and RMSE of each value."""
    heads = ranker.heads.heads
    found = ranker.predict(test.features, test.ints)
    if [head.name for head in heads] == [LABEL]:
        return evaluate(test.label, found[:, 0], test.user_id, seed=seed).as_dict()
    labels = arrays_of(test, heads).labels
    figures: dict[str, float | None] = {}
    for i, head in enumerate(heads):
        if head.objective == "cross_entropy":
            figures[f"auc_{head.name}"] = auc(labels[:, i].astype(bool), found[:, i])
        else:
            figures[f"mae_{head.name}"] = mae(labels[:, i], found[:, i])
            figures[f"rmse_{head.name}"] = rmse(labels[:, i], found[:, i])
    return figures


def _data(asked: argparse.Namespace) -> tuple[TrainData, Rows]:
    settings = Settings()
    usecase = find_usecase(asked.usecase, settings.usecase_dir)
    layout = layout_of(usecase)
    dataset = load_dataset(asked.dataset, usecase, cache=settings.datasets)
    examples = build_examples(layout, Log.of_dataset(dataset))
    return train_data(layout, examples, split_times(examples.time_us))


def _digest(net: RankNet) -> str:
    state = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        state.update(name.encode() + np.ascontiguousarray(value.to(torch.float64).numpy()).tobytes())
    return state.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
