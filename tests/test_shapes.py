import jax
import pytest

from builders import LEXICON, tiny_config
from deberta_jax.data.batches import train_batches
from deberta_jax.data.masking import Vocabulary
from deberta_jax.data.prepared import read_manifest
from deberta_jax.tokenizers.load import load_tokenizer
from deberta_jax.train.build import Run, build_run
from deberta_jax.train.shapes import masked_batch

LENGTH = 32  # of the rows of `prepared`


@pytest.fixture
def run() -> Run:
    return build_run(tiny_config(), LEXICON)


def described(tree) -> dict:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), tree)


def test_they_are_those_of_real_batches(run, prepared, spm_dir):
    vocabulary = Vocabulary.of(load_tokenizer(spm_dir))
    batches = train_batches(
        [read_manifest(prepared)], run.config.data, vocabulary, seed=0, share=run.share(run.config.batch_size)
    )
    real = run.place(next(batches))
    batches.close()
    assert described(masked_batch(run, LENGTH)) == described(real)


def test_a_step_can_be_lowered_from_them(run):
    lowered = run.train_step.lower(run.abstract, masked_batch(run, LENGTH))
    state, _ = lowered.out_info
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), run.abstract
    )
