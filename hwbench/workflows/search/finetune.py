"""Goes on training the network of this folder: python finetune.py --data IMAGES --epochs 5.

IMAGES are as for hwbench search --data. The script is yours: change what you like.
"""

import argparse
import json
from pathlib import Path

import torch
from torch.nn import functional

from hwbench.network.intake.factories import is_factory
from hwbench.network.intake.modules import load_module
from hwbench.pruning import Pruned, load, save
from hwbench.search.data import Preprocessing, load_data
from hwbench.search.training import accuracy, logits_of

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Read the network and the images, train, and write the network to another folder."""
    facts = json.loads((HERE / "network.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=facts["data"], required=facts["data"] is None)
    parser.add_argument("--original", default=facts["model"], required=facts["model"] is None)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, default=HERE / "finetuned")
    asked = parser.parse_args()
    pruned = load(HERE, load_module(asked.original, arch=facts["arch"], main=facts["main"]))
    module = pruned.module
    # Weights that were pruned one by one stay zero.
    kept = [(weight, weight.detach() != 0) for weight in module.parameters() if weight.ndim > 1]
    pictures = None
    if facts["preprocessing"] is not None and not is_factory(asked.data):
        pictures = Preprocessing.from_dict(facts["preprocessing"])
    dtype = getattr(torch, facts["dtype"])
    data = load_data(asked.data, facts["shape"], preprocessing=pictures, dtype=dtype)
    optimizer = torch.optim.SGD(module.parameters(), asked.rate, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(asked.epochs, 1))
    print(f"before: {accuracy(module, data.validation):.1%} of the validation images are right")
    for epoch in range(1, asked.epochs + 1):
        module.train()
        for images, labels in data.train.batches(asked.batch, torch.Generator().manual_seed(epoch)):
            optimizer.zero_grad()
            functional.cross_entropy(logits_of(module(images)), labels).backward()
            optimizer.step()
            for weight, nonzero in kept:
                weight.data.mul_(nonzero)
        schedule.step()
        print(f"epoch {epoch}: {accuracy(module.eval(), data.validation):.1%}", flush=True)
    save(Pruned(module.eval(), pruned.recipe), asked.out, data.test.first(1))
    print(f"written to {asked.out}; on test images: {accuracy(module, data.test):.1%}")


if __name__ == "__main__":
    main()
