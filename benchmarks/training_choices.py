"""What the choices of the training recipes are worth in short trainings.

    python -m benchmarks.training_choices --data imagenette2-160 --run RUN [--json]

initialisation  The largest subnet and the smallest one, each trained alone for ``--epochs``: with residual
                blocks that begin silent, as everything is trained here, and with He's weights alone.
sandwich        A supernet, an epoch of the largest subnet and three of the sandwich. ``chosen``: all subnets
                learn at full size, the smaller ones from labels and soft answers in equal parts.
                ``parts_added``: the two are added, so that each smaller subnet counts twice.
                ``labels_for_the_largest``: as the sandwich rule was published. ``two_thirds``: all but the
                last epoch at two thirds of the size.

Top-1 on the validation images, BN statistics re-calibrated. A run that was cut off goes on where its folder
says; ``--what`` takes one of the two.

JSON: ``initialisation`` and ``sandwich``: top-1 by choice and subnet; ``epochs``, ``side``, ``seed``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import programs
from benchmarks.images import read_images
from bespoke.supernet.architecture import Architecture, SearchSpace
from bespoke.supernet.genomes import largest, random_architecture, smallest
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.spaces import FixedNetwork
from bespoke.supernet.spaces import space as make_space
from bespoke.supernet.training import loop
from bespoke.supernet.training.data import ImageSet
from bespoke.supernet.training.distillation import (
    LABEL_SMOOTHING,
    NormaliseFor,
    accumulate_gradients,
    soft_answers,
)
from bespoke.supernet.training.evaluation import LabelledImages, calibrated_statistics, subnet_top1
from bespoke.supernet.training.initialisation import initialised
from bespoke.supernet.training.phase import Phase
from bespoke.supernet.training.processes import device_of

SPACE = "ofa-mobilenetv3-w1.0"
RATE = 2e-3
SIDE = 160
"""Of the kept images, in pixels."""
RANDOM = 4
"""Subnets whose mean top-1 is told of a supernet."""


class Trainings:
    """What all trainings have in common: images, options, the folder."""

    def __init__(self, options: argparse.Namespace, training: ImageSet, validation: ImageSet) -> None:
        self.options, self.training = options, training
        self.validation = LabelledImages(validation)

    def initialisation(self) -> dict[str, dict[str, float]]:
        """Top-1 of networks that are trained alone, by what they begin on."""
        space = make_space(SPACE, (self.options.side,), len(self.training.classes))
        begin: dict[str, Callable[[SearchSpace], ChainSupernet]] = {
            "silent": lambda network: initialised(network, self.options.seed),
            "he": self._he,
        }
        found: dict[str, dict[str, float]] = {}
        for choice, make in begin.items():
            found[choice] = {}
            for size, architecture in {"largest": largest(space), "smallest": smallest(space)}.items():
                fixed = FixedNetwork(architecture.id, space.plan(architecture).ops)
                phase = Phase("alone", self.options.epochs, RATE, (self.options.side,), subnets="largest")
                network = self._trained(make(fixed), [phase], f"{choice}-{size}")
                found[choice][size] = self._top1(network, largest(fixed))
        return found

    def sandwich(self) -> dict[str, dict[str, float]]:
        """Top-1 of a supernet's subnets, by what they learn from and at what size."""
        space = make_space(SPACE, (self.options.sandwich_side,), len(self.training.classes))
        side, rng = (self.options.sandwich_side,), np.random.default_rng(1)
        randoms = [random_architecture(space, rng) for _ in range(RANDOM)]
        chosen = [Phase("largest", 1, RATE, side, subnets="largest"), Phase("sandwich", 3, RATE, side)]
        low = (round(self.options.sandwich_side / 24) * 16,)
        in_steps = [replace(chosen[0], resolutions=low), replace(chosen[1], resolutions=low, epochs=2)]
        choices: dict[str, tuple[Sequence[Phase], AbstractContextManager[object]]] = {
            "chosen": (chosen, nullcontext()),
            "parts_added": (chosen, _students_learn(labels=1, soft=1)),
            "labels_for_the_largest": (chosen, _students_learn(labels=0, soft=1)),
            "two_thirds": ([*in_steps, replace(chosen[1], name="full size", epochs=1)], nullcontext()),
        }
        found = {}
        for choice, (phases, losses) in choices.items():
            with losses:
                network = self._trained(initialised(space, self.options.seed), phases, choice)
            found[choice] = {
                "largest": self._top1(network, largest(space)),
                "smallest": self._top1(network, smallest(space)),
                "random": round(float(np.mean([self._top1(network, a) for a in randoms])), 4),
            }
        return found

    def _he(self, space: SearchSpace) -> ChainSupernet:
        network = initialised(space, self.options.seed)
        for name, parameter in network.named_parameters():
            if name.endswith("projection_bn.weight"):
                nn.init.ones_(parameter)
        return network

    def _trained(self, network: ChainSupernet, phases: Sequence[Phase], name: str) -> ChainSupernet:
        loop.train(
            network, self.training, phases, self.options.run / name, batch=self.options.batch,
            seed=self.options.seed, device=self.options.device,
            report=lambda line: print(f"{name}: {line}", flush=True) if not self.options.json else None,
        )  # fmt: skip
        return network.cpu().eval()

    def _top1(self, network: ChainSupernet, architecture: Architecture) -> float:
        own = calibrated_statistics(network, architecture, self.training)
        top1 = subnet_top1(network, architecture, own, self.validation, device=self.options.device)
        return round(top1, 4)


@contextmanager
def _students_learn(labels: float, soft: float) -> Iterator[None]:
    """Train sandwiches with these weights of the losses of all subnets but the largest."""

    def weighted(
        network: ChainSupernet,
        x_NCHW: Tensor,
        labels_N: Tensor,
        architectures: Sequence[Architecture],
        *,
        soft_NC: Tensor | None,
        normalise: NormaliseFor,
        bf16: bool,
    ) -> float:
        assert soft_NC is None
        first, *others = architectures
        loss = accumulate_gradients(network, x_NCHW, labels_N, [first], normalise=normalise, bf16=bf16)
        soft_NC = soft_answers(network, x_NCHW, first, normalise=normalise, bf16=bf16)
        for architecture in others:
            with torch.autocast(x_NCHW.device.type, torch.bfloat16, enabled=bf16):
                logits_NC = network(x_NCHW, architecture, normalise(architecture))
            logits_NC = logits_NC.float()
            on_labels = F.cross_entropy(logits_NC, labels_N, label_smoothing=LABEL_SMOOTHING)
            (labels * on_labels + soft * F.cross_entropy(logits_NC, soft_NC)).backward()
        return loss

    with mock.patch.object(loop, "accumulate_gradients", weighted):
        yield


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="image folder")
    parser.add_argument("--run", type=Path, required=True, help="folder of the trainings: resumes")
    both = ("initialisation", "sandwich")
    parser.add_argument("--what", nargs="+", default=both, choices=both)
    parser.add_argument("--epochs", type=float, default=5, help="of the networks that are trained alone")
    parser.add_argument("--side", type=int, default=64, help="of their images, in pixels")
    parser.add_argument("--sandwich-side", type=int, default=48, help="of the supernets' images")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="of each split, at most: for trying the command out")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, each under its name."""
    device_of(options.device)
    trainings = Trainings(options, *read_images(options, SIDE))
    found: dict[str, Any] = {what: getattr(trainings, what)() for what in options.what}
    return found | {"epochs": options.epochs, "side": options.side, "seed": options.seed}


if __name__ == "__main__":
    programs.run(__doc__, add_options, run)
