"""Training on several views of each image: another one each epoch, also after a resume."""

import numpy as np
import pytest
from conftest import make_config
from test_finetune import QUICK, make_world, places_of, train

from ppvit.core.reading import sha256_of
from ppvit.training import loop
from ppvit.verbs import encrypt


@pytest.fixture
def world(tmp_path):
    config = make_world(tmp_path)
    views = make_config(dataset=config.dataset.model_dump(), encrypt={"views": 3}, finetune=QUICK)
    encrypt.run(views, places_of(tmp_path))
    return tmp_path, views


def adapter(folder, name):
    return sha256_of(places_of(folder, name).finetuned / "adapter_model.safetensors")


def stopped(folder, config):
    """A run that ends in its second epoch and leaves a checkpoint."""

    def stop(epoch, _):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, config, "stopped", log=stop)


def test_each_epoch_takes_another_view_and_so_does_a_resumed_run(world, monkeypatch):
    folder, config = world
    taken, load_batches = [], loop.load_batches

    def watched(dataset, batches, *others):
        taken.append(np.concatenate(batches))
        return load_batches(dataset, batches, *others)

    monkeypatch.setattr(loop, "load_batches", watched)
    train(folder, config, "whole")
    count = len(taken[0])
    assert len(taken) == 3
    assert np.array_equal(np.sort(np.concatenate(taken)), np.arange(3 * count))

    whole = taken[:]
    stopped(folder, config)
    taken.clear()
    train(folder, config, "resumed")
    assert [samples.tolist() for samples in taken] == [samples.tolist() for samples in whole[1:]]
    assert adapter(folder, "resumed") == adapter(folder, "whole")


def test_what_was_begun_on_other_views_is_not_gone_on_with(world):
    """They have the same shards of view 0."""
    folder, config = world
    stopped(folder, config)
    other = config.model_copy(update={"encrypt": config.encrypt.model_copy(update={"view_recipe": "randaugment"})})
    encrypt.run(other, places_of(folder))
    for name in ("first", "again"):  # after which there is no checkpoint
        train(folder, other, name)
    assert adapter(folder, "first") == adapter(folder, "again")
