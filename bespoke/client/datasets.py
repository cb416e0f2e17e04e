"""Data sets: measured subnets that an accuracy predictor is fitted on."""

from __future__ import annotations

from bespoke.client.sending import Json, Sender, part

__all__ = ["Datasets"]


class Datasets(Sender):
    """Data sets of a supernet."""

    def collect_dataset(
        self,
        supernet: str,
        subnets: int = 1000,
        *,
        shards: int = 1,
        seed: int | None = None,
        unsure: int = 0,
        rounds: int = 2,
        views: int = 1,
        side: int | None = None,
        fit: bool = True,
    ) -> Json:
        """Have subnets measured on held-out training images, and the accuracy predictor fitted on them.

        The same call again gives the data set that there is, and takes it up where it failed.

        Args:
            supernet: The supernet.
            subnets: How many to measure.
            shards: Into how many jobs each round is cut.
            seed: Which subnets are drawn; the training's seed, or 0, unless given.
            unsure: How many of the subnets are chosen for the predictor being unsure of them.
            rounds: In how many rounds these are chosen.
            views: Crops of each image that are evaluated.
            side: Of the kept images in pixels, where the supernet's card does not tell it.
            fit: Whether the predictor is fitted and served in the end.
        """
        body: Json = {"subnets": subnets, "shards": shards, "seed": seed, "views": views, "side": side}
        active = {"subnets": unsure, "rounds": rounds} if unsure else None
        return self._json("POST", _datasets(supernet), body=body | {"active": active, "fit": fit})

    def datasets(self, supernet: str) -> list[Json]:
        """A supernet's data sets, newest first."""
        return list(self._json("GET", _datasets(supernet))["items"])

    def dataset(self, supernet: str, dataset_id: str) -> Json:
        """One data set: progress, shards, and in the end the predictor."""
        return self._json("GET", f"{_datasets(supernet)}/{part(dataset_id)}")

    def export_dataset(self, supernet: str, dataset_id: str) -> bytes:
        """What was measured so far, as JSON lines."""
        return self._send("GET", f"{_datasets(supernet)}/{part(dataset_id)}/accuracy.jsonl").content

    def cancel_dataset(self, supernet: str, dataset_id: str) -> Json:
        """Stop a data set; what was measured is kept."""
        return self._json("POST", f"{_datasets(supernet)}/{part(dataset_id)}/cancel", idempotent=True)


def _datasets(supernet: str) -> str:
    return f"/v1/supernets/{part(supernet)}/datasets"
