"""Progressive shrinking: train the largest network, then let kernel, depth and width shrink in turn.

Every phase but the first draws its subnets uniformly from what is open so far, one resolution a
batch, and is taught by a frozen copy of the largest network. Before widths open, the channels of
each block are sorted by importance, so that a narrow subnet begins with those that matter most.

Epochs are the published ones, for ImageNet on 32 GPUs (605 in all): scale them by one number
(``phase.scaled``). The published rates, 2.6 for the largest and then 0.96, 0.08, 0.24, 0.08 and
0.24, are SGD's, whose step grows with the number of losses that are summed. AdamW's does not, so
that the rates here are 2e-3 x published / 2.6 x losses a step.

Source: Cai et al., Once-for-All (ICLR 2020), section 3.3 and appendix; the kernel phase is left out
where kernels are fixed, as in ResNet-50, whose residual widths shrink last.
"""

from __future__ import annotations

from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.training.phase import Phase

DEPTHS, EXPANDS, WIDTHS = ("stem_depth", "depth"), ("expand",), ("stem_width", "width")


def progressive_shrinking(space: SearchSpace) -> list[Phase]:
    """Largest, kernel, depth (2 phases), expand (2 phases), and width (2) where a space has one."""
    sides = space.dimensions[-1].choices

    def shrunk(name: str, epochs: float, rate: float, subnets: int, *still: tuple[str, int]) -> Phase:
        known = {d.name for d in space.dimensions}
        closed = tuple((dimension, count) for dimension, count in still if dimension in known)
        sort = name.startswith("expand")
        return Phase(name, epochs, rate, sides, subnets, "random", open_choices=closed, sort_channels=sort)

    def only(count: int, *dimensions: str) -> tuple[tuple[str, int], ...]:
        return tuple((dimension, count) for dimension in dimensions)

    phases = [
        Phase("largest", 180, 2e-3, sides, subnets="largest"),
        shrunk("kernel", 125, 1.5e-3, 1, *only(1, *DEPTHS, *EXPANDS, *WIDTHS)),
        shrunk("depth 1", 25, 2.5e-4, 2, *only(2, *DEPTHS), *only(1, *EXPANDS, *WIDTHS)),
        shrunk("depth 2", 125, 7.5e-4, 2, *only(1, *EXPANDS, *WIDTHS)),
        shrunk("expand 1", 25, 5e-4, 4, *only(2, *EXPANDS), *only(1, *WIDTHS)),
        shrunk("expand 2", 125, 1.5e-3, 4, *only(1, *WIDTHS)),
        shrunk("width 1", 25, 5e-4, 4, *only(2, *WIDTHS)),
        shrunk("width 2", 125, 1.5e-3, 4),
    ]
    known = {d.name for d in space.dimensions}
    return [
        phase
        for phase in phases
        if (phase.name != "kernel" or "kernel" in known)
        and (not phase.name.startswith("width") or "width" in known)
    ]
