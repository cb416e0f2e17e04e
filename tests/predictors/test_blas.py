"""Blocks that hold the BLAS to one thread, also where they overlap."""

from threadpoolctl import ThreadpoolController

from bespoke.predictors.blas import one_thread


def test_the_last_of_overlapping_blocks_gives_the_threads_back() -> None:
    blas = ThreadpoolController().select(user_api="blas")

    def threads() -> set[int]:
        return {one["num_threads"] for one in blas.info()}

    with blas.limit(limits=2):
        before = threads()
        first, second = one_thread(), one_thread()
        first.__enter__()
        second.__enter__()
        assert threads() == {1}
        first.__exit__(None, None, None)
        assert threads() == {1}
        second.__exit__(None, None, None)
        assert threads() == before == {2}
