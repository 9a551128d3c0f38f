"""In which order an epoch takes the training images: all once, or as many of each class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def epoch_order(
    count: int, seed: int, epoch: int, strata: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """The images of an epoch, in random order; nothing but the arguments decides.

    Balanced, each stratum that has images gets as many places as any other, give or take one: of the rare ones images
    come several times, of the frequent ones some. Over the epochs a stratum deals out its images like a pack of cards,
    shuffled anew after the last one, so that none comes a second time before all came once.

    Args:
        count: of images, n.
        seed, epoch: equal ones give equal orders.
        strata: of every image, int64 (n,), for balanced sampling; None takes every image once.

    Returns:
        Numbers of images, (n,).
    """
    order = np.random.default_rng((seed, epoch)).permutation(count)
    if strata is None:
        return order
    packs = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    # the places of all epochs are dealt to the strata in turn
    turns, dealt_to = np.divmod(np.arange(epoch * count, (epoch + 1) * count), len(packs))
    images = np.empty(count, np.int64)
    for number, pack in enumerate(packs):
        rounds, cards = np.divmod(turns[dealt_to == number], len(pack))
        taken = np.empty(len(cards), np.int64)
        for each in np.unique(rounds):
            # a stream of its own: the order of the epochs takes (seed, epoch)
            shuffled = np.random.default_rng((seed, number, int(each), 1)).permutation(pack)
            taken[rounds == each] = shuffled[cards[rounds == each]]
        images[dealt_to == number] = taken
    found: npt.NDArray[np.int64] = images[order]
    return found


def views_in_turn(order: npt.NDArray[np.int64], epoch: int, views: int) -> npt.NDArray[np.int64]:
    """Which view an epoch takes at each place: of image i, view (epoch + i) mod views, the next where it comes again.

    So each epoch has all views, of as many images each, and k epochs in a row have each view of each image once, where
    every image comes once an epoch; what an epoch takes depends on nothing but its order and number.

    Args:
        order: numbers of images, (n,).
        epoch: its number.
        views: of each image, k.

    Returns:
        Numbers of views, (n,).
    """
    places = np.argsort(order, kind="stable")
    before = np.empty(len(order), np.int64)  # how often the image has come in this epoch
    before[places] = np.arange(len(order)) - np.searchsorted(order[places], order[places])
    turns: npt.NDArray[np.int64] = (epoch + order + before) % views
    return turns
